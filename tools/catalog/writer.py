# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The files that are made from the configs and the paper's rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .entries import Entry
from .errors import CatalogError
from .markdown import BEGIN, END, replaced, table
from .metafile import metafile
from .paper import Paper


def made_files(
    root: Path, paper: Paper, entries: Sequence[Entry]
) -> dict[Path, str]:
    """Contents of docs/configs.md, metafiles and READMEs, by path.

    Args:
        root: the repository.
        paper: rows and families.
        entries: of every config.

    Raises:
        CatalogError: a README, or its place for the table, is missing; a
            config could not be read.
    """
    missing = [e for e in entries if e.missing]
    if missing:
        raise CatalogError(
            f'{missing[0].config} and {len(missing) - 1} more cannot be read '
            f'here: {missing[0].missing}; every toolbox is needed, as in the '
            'environment that SN_MM_STACK=classic makes'
        )
    files = {}
    for family in paper.families:
        own = [e for e in entries if e.folder == family.folder]
        folder = root / 'configs' / family.folder
        files[folder / 'metafile.yml'] = metafile(family, own)
        files[folder / 'README.md'] = _filled(folder / 'README.md', table(own))
    found = (root / 'configs').glob('*/metafile.yml')
    metafiles = sorted({*found, *(p for p in files if p.suffix == '.yml')})
    files[root / 'model-index.yml'] = _index(root, metafiles)
    folders = [f.folder for f in paper.families]
    parts = [
        _section(root, folder, [e for e in entries if e.folder == folder])
        for folder in dict.fromkeys([*folders, *(e.folder for e in entries)])
    ]
    path = root / 'docs' / 'configs.md'
    files[path] = _filled(path, '\n\n'.join(parts))
    return files


def write_catalog(
    root: Path, paper: Paper, entries: Sequence[Entry]
) -> list[Path]:
    """Write what :func:`made_files` makes.

    Returns:
        The files that changed. Each is replaced whole, or not at all.

    Raises:
        CatalogError: see :func:`made_files`; nothing is written then.
        OSError: a file cannot be written.
    """
    changed = []
    for path, text in made_files(root, paper, entries).items():
        if path.exists() and path.read_text(encoding='utf-8') == text:
            continue
        scratch = path.with_name(f'.{path.name}.new')
        scratch.write_text(text, encoding='utf-8')
        os.replace(scratch, path)
        changed.append(path)
    return changed


def _section(root: Path, folder: str, entries: Sequence[Entry]) -> str:
    """A folder's part of docs/configs.md."""
    readme = root / 'configs' / folder / 'README.md'
    heading = folder
    if readme.is_file():
        first = readme.read_text(encoding='utf-8').partition('\n')[0]
        heading = f'[{first.lstrip("# ")}](../configs/{folder})'
    return f'## {heading}\n\n{table(entries, "../configs")}'


def _index(root: Path, metafiles: Sequence[Path]) -> str:
    """model-index.yml, by which mim finds the metafiles."""
    lines = [f'- {path.relative_to(root).as_posix()}' for path in metafiles]
    return '\n'.join(['Import:', *lines, ''])


def _filled(path: Path, block: str) -> str:
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    made = replaced(text, block)
    if made is None:
        raise CatalogError(
            f'{path} needs the two lines between which the table goes: '
            f'"{BEGIN}" and "{END}"'
        )
    return made
