# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The files that are made from the configs and the paper's rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sn_mm.utils import write_text

from .catalog_error import CatalogError
from .config_entries import ConfigEntry
from .markdown import BEGIN, END, replaced, table
from .metafile import metafile
from .paper import Paper


def made_files(
    root: Path, paper: Paper, entries: Sequence[ConfigEntry]
) -> dict[Path, str]:
    """Contents of docs/configs.md, metafiles and READMEs, by path.

    What is known of a config whose toolbox is not installed stays as it
    stands: its row in docs/configs.md, and the files of its family.

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
        if any(e.missing for e in own):
            continue
        folder = root / 'configs' / family.folder
        files[folder / 'metafile.yml'] = metafile(family, own)
        files[folder / 'README.md'] = _filled(folder / 'README.md', table(own))
    found = (root / 'configs').glob('*/metafile.yml')
    metafiles = sorted({*found, *(p for p in files if p.suffix == '.yml')})
    files[root / 'model-index.yml'] = _index(root, metafiles)
    folders = [f.folder for f in paper.families]
    path = root / 'docs' / 'configs.md'
    old = path.read_text(encoding='utf-8') if path.is_file() else ''
    parts = [
        _section(root, folder, [e for e in entries if e.folder == folder], old)
        for folder in dict.fromkeys([*folders, *(e.folder for e in entries)])
    ]
    files[path] = _filled(path, '\n\n'.join(parts))
    return files


def write_catalog(
    root: Path, paper: Paper, entries: Sequence[ConfigEntry]
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
        write_text(path, text)
        changed.append(path)
    return changed


def _section(
    root: Path, folder: str, entries: Sequence[ConfigEntry], old: str
) -> str:
    """A folder's part of docs/configs.md."""
    readme = root / 'configs' / folder / 'README.md'
    heading = folder
    if readme.is_file():
        first = readme.read_text(encoding='utf-8').partition('\n')[0]
        heading = f'[{first.lstrip("# ")}](../configs/{folder})'
    return f'## {heading}\n\n{table(entries, "../configs", old)}'


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
