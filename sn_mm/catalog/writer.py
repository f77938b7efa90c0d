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

_TITLES = {
    'demo': 'Demo models',
    'pretrain': 'ImageNet pretraining',
    'released': 'Released models',
}


def made_files(
    root: Path, paper: Paper, entries: Sequence[Entry]
) -> dict[Path, str]:
    """Contents of docs/configs.md, metafiles and READMEs, by path.

    Args:
        root: the repository.
        paper: rows and families.
        entries: of every config.

    Raises:
        CatalogError: a README, or its place for the table, is missing.
    """
    files = {}
    for family in paper.families:
        own = [e for e in entries if e.folder == family.folder]
        folder = root / 'configs' / family.folder
        files[folder / 'metafile.yml'] = metafile(family, own)
        files[folder / 'README.md'] = _filled(folder / 'README.md', table(own))
    titles = {f.folder: f.name for f in paper.families}
    titles.update(_TITLES)
    parts = []
    for folder in dict.fromkeys([*titles, *(e.folder for e in entries)]):
        own = [e for e in entries if e.folder == folder]
        if own:
            title = titles.get(folder, folder)
            readme = root / 'configs' / folder / 'README.md'
            link = f'[{title}](../configs/{folder})'
            heading = f'## {link if readme.exists() else title}'
            parts.append(f'{heading}\n\n{table(own, "../configs")}')
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


def _filled(path: Path, block: str) -> str:
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    made = replaced(text, block)
    if made is None:
        raise CatalogError(
            f'{path} needs the two lines between which the table goes: '
            f'"{BEGIN}" and "{END}"'
        )
    return made
