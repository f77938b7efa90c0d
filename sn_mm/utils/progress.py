# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How far a long task has come, on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmengine.dist import is_main_process

_SECONDS_A_LINE = 30


@contextmanager
def progress_bar(
    text: str, total: int | None, shown: bool = True, in_bytes: bool = False
) -> Iterator[Callable[..., None]]:
    """Show how far a long piece of work has come, on standard error.

    On a terminal a bar with the time left; elsewhere, as in the log of a
    batch system, a line from time to time. Processes but the first show
    nothing.

    Args:
        text: what is being done.
        total: steps, or bytes; None where nobody knows.
        shown: without, nothing is shown at all.
        in_bytes: ``total`` counts bytes.

    Returns:
        A context that gives a function: call it with the number of steps (1
        by default) or bytes that were done since.
    """
    if not shown or not is_main_process():
        yield lambda count=1: None
    elif not sys.stderr.isatty():
        yield _Lines(text, total)
    else:
        with _bar(in_bytes) as bar:
            task = bar.add_task(text, total=total)
            yield lambda count=1: bar.advance(task, count)


def _bar(in_bytes: bool):
    # imported here, since nothing else in training needs it
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn('{task.description}'),
        progress.BarColumn(),
        progress.DownloadColumn()
        if in_bytes
        else progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )


class _Lines:
    """Counts steps, and writes a line where the last one is long ago."""

    def __init__(self, text: str, total: int | None) -> None:
        self.text = text
        self.total = total
        self.done = 0
        self.start = self.written = time.monotonic()

    def __call__(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.written < _SECONDS_A_LINE:
            return
        self.written = now
        line = f'{self.text}: {self.done}'
        if self.total is not None:
            left = (now - self.start) * (self.total / self.done - 1)
            line += f' of {self.total}, {max(left, 0):.0f} s left'
        print(line, file=sys.stderr, flush=True)
