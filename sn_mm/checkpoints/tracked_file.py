# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A progress bar over the bytes of a file that torch reads or writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Callable

from sn_mm.utils import progress_bar


class _Counted:
    """A binary file that reports how far into it work has come."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance
        self.count = 0

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def _moved(self, count: int) -> None:
        self.count += count
        self._advance(count)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._moved(len(data))
        return data

    def readinto(self, buffer) -> int:
        count = self._file.readinto(buffer)
        self._moved(count)
        return count

    def readline(self, size: int = -1) -> bytes:
        data = self._file.readline(size)
        self._moved(len(data))
        return data

    def write(self, data) -> int:
        count = self._file.write(data)
        self._moved(count)
        return count


@contextmanager
def tracked(
    file: BinaryIO, total: int, text: str, shown: bool
) -> Iterator[BinaryIO]:
    """``file``, with a bar on the terminal (standard error) while open.

    Args:
        file: opened in binary mode.
        total: bytes to come.
        text: what is being done.
        shown: without, the file is given back as it is.
    """
    if not shown:
        yield file
        return
    with progress_bar(text, total, in_bytes=True) as advance:
        counted = _Counted(file, advance)
        yield counted
        # the size was an estimate, or torch skipped what it did not need
        advance(max(0, total - counted.count))
