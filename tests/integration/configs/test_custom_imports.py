# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN beside toolbox configs that have ``custom_imports`` of their own."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from mmengine.config import Config

from tests.paths import CONFIGS, ROOT


def with_imports() -> list[str]:
    """'mmdet::NAME' of the toolboxes' configs that set ``custom_imports``."""
    found = []
    for toolbox in ('mmdet', 'mmseg'):
        folder = Path(import_module(toolbox).__file__).parent / '.mim/configs'
        for path in sorted(folder.glob('*/*.py')):
            text = path.read_text(encoding='utf-8')
            if re.search(r'^custom_imports', text, re.MULTILINE):
                found.append(f'{toolbox}::{path.relative_to(folder)}')
    return found


def imports_of(text: str, folder: Path) -> str | list[str]:
    path = folder / 'config.py'
    path.write_text(text)
    cfg = Config.fromfile(path, import_custom_modules=False)
    return cfg.custom_imports.imports


def shown_in(name: str) -> list[str]:
    """The lines of a text that add an import to a base's own."""
    text = ' '.join((ROOT / name).read_text().split())
    return re.findall(r'custom_imports = dict\(imports=[^`]*?\)\)?(?=`)', text)


@pytest.mark.parametrize('name', with_imports())
def test_beside_a_base_that_has_its_own(name, tmp_path):
    base = f"_base_ = '{name}'\n"
    own = imports_of(base, tmp_path)
    fragment = CONFIGS / '_base_' / 'sn.py'
    both = f"_base_ = ['{name}', '{fragment}']\n"
    assert imports_of(both, tmp_path) == own  # nothing twice, nothing lost
    starred, plain = (x for x in shown_in('README.md') if '_base_' in x)
    assert '*' in starred and '*' not in plain
    names, line = ([own], plain) if isinstance(own, str) else (own, starred)
    for text in (base, both):
        assert imports_of(text + line, tmp_path) == [*names, 'sn_mm']


def test_there_are_some():
    assert with_imports()
