# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A progress bar on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(
    text: str, total: int | None, shown: bool = True, in_bytes: bool = False
) -> Iterator[Callable[[int], None] | None]:
    """Show how far a long piece of work has come, on standard error.

    Args:
        text: what is being done.
        total: steps, or bytes; None where nobody knows.
        shown: no bar without. There is none either where standard error is
            no terminal.
        in_bytes: ``total`` counts bytes.

    Returns:
        A context that gives a function: call it with the number of steps (or
        bytes) that were done since. None where no bar is shown.
    """
    console = Console(file=sys.stderr)
    if not shown or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(text, total=total)
        yield lambda count: progress.advance(task, count)
