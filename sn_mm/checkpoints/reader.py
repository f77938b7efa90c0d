# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Reading checkpoint files of unknown origin: tensors only, no code."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .tracked_file import tracked

# outer keys that hold the weights, in the order they are looked for
_WEIGHTS = ('state_dict', 'model')
_PLAIN = (str, int, float, bool, type(None))


@dataclass
class CheckpointFile:
    """What a checkpoint file holds.

    Attributes:
        path: where it was read.
        state: the weights, in the file's order.
        wrapper: outer key of the weights; None where the file is the state
            dict itself.
        plain: outer entries that are text or numbers, such as 'epoch'.
        meta: the file's own 'meta', if it is a dict.
        dropped: names of all other outer entries (optimizer, ...).
    """

    path: Path
    state: dict[str, Tensor]
    wrapper: str | None = None
    plain: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def read_checkpoint(
    path: str | os.PathLike, progress: bool = False
) -> CheckpointFile:
    """Read a checkpoint on the CPU, refusing pickled code.

    ``torch.load(weights_only=True)``: only tensors and plain containers are
    built, whatever the pickle asks for.

    Args:
        path: zip-based or older torch file.
        progress: show a bar.

    Raises:
        CheckpointError: not a checkpoint, truncated, or with code in it.
    """
    path = Path(path)
    size = path.stat().st_size
    try:
        with (
            open(path, 'rb') as file,
            tracked(file, size, 'reading', progress) as source,
        ):
            content = torch.load(source, map_location='cpu', weights_only=True)
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    except Exception as error:  # torch raises whatever its parsers raise
        raise CheckpointError(f'{path}: {_why(path, error)}') from error
    return unwrap(path, content)


def unwrap(path: Path, content: Any) -> CheckpointFile:
    """Tell the weights from what lies around them."""
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, not '
            'a dict of weights: not a checkpoint'
        )
    for key in _WEIGHTS:
        if isinstance(content.get(key), dict):
            found = CheckpointFile(path, content[key], key)
            outer = {k: v for k, v in content.items() if k != key}
            break
    else:
        found = CheckpointFile(path, content)
        outer = {}
    for key, value in outer.items():
        if isinstance(value, _PLAIN):
            found.plain[str(key)] = value
        elif isinstance(value, Tensor) and value.numel() == 1:
            found.plain[str(key)] = value.item()
        elif key == 'meta' and isinstance(value, dict):
            found.meta = value
        else:
            found.dropped.append(str(key))
    _check_weights(path, found.state)
    # files of 2018 hold nn.Parameters here and there
    found.state = {k: v.detach() for k, v in found.state.items()}
    return found


def _check_weights(path: Path, state: dict) -> None:
    if not state:
        raise CheckpointError(f'{path} holds no weights: an empty dict')
    others = [
        str(k)
        for k, v in state.items()
        if not isinstance(k, str) or not isinstance(v, Tensor)
    ]
    if others:
        raise CheckpointError(
            f'{path} is not a checkpoint: expected a dict of tensors, '
            "possibly under 'state_dict' or 'model', but "
            f'{join_names(others)} are something else'
        )


def _why(path: Path, error: Exception) -> str:
    """One sentence from whatever torch raised."""
    text = str(error)
    # torch's advice to load without weights_only is not for foreign files
    cause = text.rpartition('WeightsUnpickler error:')[2].strip()
    cause = (cause or type(error).__name__).splitlines()[0]
    name = re.search(
        r'(?:[Uu]nsupported (?:class|global:?)|function|GLOBAL|Trying to '
        r"\w+ (?:an )?)[:\s]+(?:GLOBAL )?[`'<]*([A-Za-z_][\w.]*)",
        text,
    )
    if isinstance(error, pickle.UnpicklingError) and name:
        return (
            f'holds Python objects ({name.group(1)}) besides tensors. Loading '
            'those could run code, so the file is refused and nothing was '
            'run. If you made it yourself, save its state_dict alone: '
            "torch.save({'state_dict': ...}, ...)"
        )
    if path.stat().st_size == 0:
        return 'is empty'
    with open(path, 'rb') as file:
        is_zip = file.read(2) == b'PK'
    if is_zip and not zipfile.is_zipfile(path):
        return 'is truncated (its zip directory is missing): fetch it again'
    if is_zip:
        return f'is damaged: {cause}'
    if isinstance(error, (EOFError, RuntimeError)):
        return f'is truncated or damaged: fetch it again ({cause})'
    return f'is not a checkpoint that torch.load can read ({cause})'
