# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Writing a checkpoint: whole, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch

from sn_mm.utils import written_whole
from sn_mm.utils.errors import CheckpointError

from .tracked_file import tracked


def check_destination(path: Path) -> None:
    """Raise CheckpointError unless ``path`` can become a new file."""
    if path.exists():
        raise CheckpointError(
            f'{path} exists already: remove it or choose another name'
        )
    if not path.parent.is_dir():
        raise CheckpointError(
            f'the folder {path.parent} does not exist: make it first'
        )


def write_checkpoint(
    content: dict[str, Any], path: Path, size: int, progress: bool = False
) -> None:
    """Save ``content``; under its own name only when it is complete.

    Args:
        content: what torch.save takes.
        path: the new file.
        size: its size in bytes, about.
        progress: show a bar.

    Raises:
        CheckpointError: the file exists, or cannot be written, as when the
            disk is full; nothing is left behind.
    """
    check_destination(path)
    try:
        with (
            written_whole(path) as temporary,
            temporary.open('wb') as file,
            tracked(file, size, 'writing', progress) as sink,
        ):
            torch.save(content, sink)
    except (OSError, RuntimeError) as error:  # torch wraps some in the latter
        raise CheckpointError(
            f'{path} cannot be written: {_why(error)}; nothing was left behind'
        ) from error


def _why(error: Exception) -> str:
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return 'the disk is full'
            return str(error.strerror or error)
        text, error = str(error), error.__cause__ or error.__context__
    return text.splitlines()[0]
