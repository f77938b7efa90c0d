# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary file that becomes ``path`` if all goes well.

    It lies in the same folder and has the same ending. When the block ends
    without an error it is written through to the disk and renamed, replacing
    what was there; after an error it is deleted, and what was there stays.

    Args:
        path: the file to be; its folder must exist.

    Raises:
        OSError: the file cannot be made or renamed. Its file name is
            ``path``, not the temporary one.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> with written_whole(Path(folder.name, 'numbers')) as temporary:
        ...     _ = temporary.write_text('1 2 3')
    """
    path = Path(path)
    with _blamed_on(path):
        handle, name = tempfile.mkstemp(
            prefix=f'.{path.name}.', suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with _blamed_on(path):
            _write_through(temporary)
            # mkstemp's files are their owner's alone
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OSError: see :func:`written_whole`.
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON, whole or not at all.

    Raises:
        OSError: see :func:`written_whole`.
        TypeError: ``content`` holds what JSON does not know.
    """
    write_text(path, json.dumps(content, indent=2) + '\n')


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Let errors of the system name the file that the caller named."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_through(path: Path) -> None:
    with path.open('rb+') as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
