# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Imports of the package run downward only: see CONTRIBUTING.md, Rooms."""

import ast

import pytest

from tests.paths import ROOT

# who may import whom: a room and everything below it
ORDER = ('utils', 'kernels', 'distributed', 'functional', 'layers')
PACKAGE = ROOT / 'sn_mm'


def imported_rooms(path) -> set[str]:
    """Rooms of sn_mm that a file imports, anywhere in it."""
    here = path.relative_to(ROOT).with_suffix('').parts
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split('.') for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: -node.level]) if node.level else []
            base += node.module.split('.') if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        rooms |= {n[1] for n in names if n[0] == 'sn_mm' and len(n) > 1}
    return rooms


@pytest.mark.parametrize('room', ORDER)
def test_a_room_imports_only_those_below(room):
    allowed = set(ORDER[: ORDER.index(room) + 1])
    files = list((PACKAGE / room).rglob('*.py'))
    assert files
    for path in files:
        above = imported_rooms(path) - allowed
        assert not above, f'{path.relative_to(ROOT)} imports {sorted(above)}'


def test_nothing_below_imports_anatomys_users():
    """Surgery and analysis share anatomy, and do not import each other."""
    for room, others in {
        'anatomy': {'surgery', 'analysis', 'recalibrate', 'deploy', 'cli'},
        'analysis': {'surgery'},
        'surgery': {'analysis'},
    }.items():
        for path in (PACKAGE / room).rglob('*.py'):
            found = imported_rooms(path) & others
            assert not found, f'{path.relative_to(ROOT)} imports {found}'
