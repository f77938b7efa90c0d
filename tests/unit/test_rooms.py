# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Who imports whom, and that every module has its tests: CONTRIBUTING.md."""

import ast
from pathlib import Path

import pytest

from tests.paths import ROOT

# who may import whom: a room and everything below it
ORDER = ('utils', 'kernels', 'distributed', 'functional', 'layers')
PACKAGE = ROOT / 'sn_mm'
MIRROR = ROOT / 'tests' / 'unit'
# what has nothing that a test could call
WITHOUT_TESTS = {
    'version.py',  # a number
    'utils/errors.py',  # names of errors
    'cli/launch_error.py',
    'kernels/fused/switch_settings.py',  # names of fields
    # code for GPUs, which its launchers call: switch_triton.py, sweeps.py
    'kernels/fused/switch_kernels.py',
    'kernels/triton/kernels.py',
}


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


def mirror_of(module) -> set:
    """Where the tests of a module may be.

    A normalizer's rule and its layer, in files of one name, have one file of
    tests between them, or one each.
    """
    places = {module}
    if module.parts[0] in ('functional', 'layers'):
        both = [
            Path(room, *module.parts[1:]) for room in ('functional', 'layers')
        ]
        if all((PACKAGE / path).is_file() for path in both):
            places |= set(both)
    return {
        MIRROR.joinpath(*(f'test_{part}' for part in path.parts))
        for path in places
    }


def test_every_module_has_its_tests():
    modules = [
        path.relative_to(PACKAGE)
        for path in sorted(PACKAGE.rglob('*.py'))
        if path.name != '__init__.py'
    ]
    assert {m.as_posix() for m in modules} >= WITHOUT_TESTS
    lacking = [
        module.as_posix()
        for module in modules
        if module.as_posix() not in WITHOUT_TESTS
        and not any(place.is_file() for place in mirror_of(module))
    ]
    assert not lacking, f'no file of tests in tests/unit for {lacking}'
