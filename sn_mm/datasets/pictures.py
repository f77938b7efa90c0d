# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which of the files that a data set will open are there."""

from __future__ import annotations

import os
import os.path as osp
from collections import defaultdict
from collections.abc import Iterable, Iterator


def absent(names: Iterable[str], folder: str) -> list[str]:
    """Names, as joined with a folder, under which no file can be opened.

    Every folder that the names lead to is listed once: on network disks that
    is many times faster than to ask for every file.

    Args:
        names: with folders in them, with ``..``, or absolute, as they come.
        folder: empty for the current one.
    """
    by_folder = defaultdict(list)
    for name in names:
        path = osp.join(folder, name)
        by_folder[osp.dirname(path)].append((osp.basename(path), name))
    found = []
    for parent, pairs in by_folder.items():
        present = _files_in(parent or '.')
        found += [
            name
            for base, name in pairs
            # a file system may take other spellings for the same name
            if base not in present and not osp.isfile(osp.join(folder, name))
        ]
    return sorted(found)


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, from there on, with '/'.

    Links are followed, except to a folder that they are in. Hidden files are
    passed over, as they are when mmseg lists a folder.
    """
    yield from _files_below(folder, '', ())


def _files_below(
    folder: str, below: str, around: tuple[tuple[int, int], ...]
) -> Iterator[str]:
    here = osp.join(folder, below) if below else folder
    status = os.stat(here)
    identity = (status.st_dev, status.st_ino)
    if identity in around:
        return
    with os.scandir(here) as entries:
        listed = list(entries)
    for entry in listed:
        name = f'{below}/{entry.name}' if below else entry.name
        if entry.is_dir():
            yield from _files_below(folder, name, (*around, identity))
        elif not entry.name.startswith('.') and entry.is_file():
            yield name


def some_of(
    lacking: list[str], count: int, what: str, folder: str, where: str
) -> str | None:
    """``FOLDER lacks 2 of the 9 pictures that FILE has, such as NAME``."""
    if not lacking:
        return None
    folder = folder or 'the current folder'
    return (
        f'{folder} lacks {len(lacking)} of the {count} {what} that '
        f'{where} has, such as {lacking[0]}'
    )


def why_absent(lacking: list[str], folder: str) -> str:
    """What is likely to be wrong with the names; empty if nothing shows."""
    name = lacking[0]
    if '\\' in name:
        return (
            "; the names have backslashes, as Windows writes them: write '/' "
            'in the annotation file'
        )
    if osp.isfile(osp.join(folder, osp.basename(name))):
        return (
            f'; {osp.basename(name)} is there: the names in the annotation '
            'file begin with folders that data_prefix has already'
        )
    return ''
