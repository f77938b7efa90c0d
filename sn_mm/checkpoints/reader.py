# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Reading checkpoint files of unknown origin: tensors only, no code."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.serialization import SourceChangeWarning

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from . import tensors_only
from .tracked_file import tracked

# outer keys that hold the weights, in the order they are looked for
_WEIGHTS = ('state_dict', 'model')
_PLAIN = (str, int, float, bool, type(None))
_CAN_MAP = 'mmap' in inspect.signature(torch.load).parameters


@dataclass
class CheckpointFile:
    """What a checkpoint file holds.

    Attributes:
        path: where it was read.
        state: the weights, in the file's order.
        wrapper: outer key of the weights; None where the file is the state
            dict itself.
        metadata: what torch's modules say of themselves in a state dict,
            by name.
        plain: outer entries that are text or numbers, such as 'epoch'.
        meta: the file's own 'meta', if it is a dict.
        dropped: names of all other outer entries (optimizer, ...).
    """

    path: Path
    state: dict[str, Tensor]
    wrapper: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def read_checkpoint(
    path: str | os.PathLike, progress: bool = False, of_run: bool = False
) -> CheckpointFile:
    """Read a checkpoint on the CPU, refusing pickled code.

    ``torch.load(weights_only=True)``: only tensors and plain containers are
    built, whatever the pickle asks for.

    Args:
        path: zip-based or older torch file.
        progress: show a bar.
        of_run: pass over what else lies beside the weights of a training
            run, too; it is not built either.

    Raises:
        CheckpointError: not a checkpoint, truncated, or with code in it.
    """
    path = Path(path)
    return unwrap(path, read_content(path, progress, of_run))


def read_content(
    path: Path, progress: bool = False, of_run: bool = True
) -> Any:
    """What a file holds: containers, numbers and tensors on the CPU.

    A file of safetensors is told by its content, as all others are. Files
    are mapped, not read, where torch can: from 2.1 on, zip-based ones.

    Args:
        path, progress, of_run: see :func:`read_checkpoint`; with ``of_run``
            all else becomes :class:`.tensors_only.Inert`.

    Raises:
        CheckpointError: as there.
    """
    try:
        if is_safetensors(path):
            return read_safetensors(path)
        size = path.stat().st_size
        with (
            open(path, 'rb') as file,
            tracked(file, size, 'reading', progress) as source,
        ):
            return _load(source, of_run, path, progress)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error}') from error
    except Exception as error:  # torch raises whatever its parsers raise
        raise CheckpointError(f'{path}: {_why(path, error)}') from error


def _load(source: BinaryIO, of_run: bool, path: Path, progress: bool) -> Any:
    start = source.tell()
    options: dict[str, Any] = dict(map_location='cpu')
    is_zip = zipfile.is_zipfile(path)
    if is_zip and _is_torchscript(path):
        raise CheckpointError(
            f'{path} is a TorchScript archive, which is a program: save its '
            "state dict, torch.save(torch.jit.load('FILE').state_dict(), "
            "'NEW')"
        )
    # torch 2.13 takes a path of this ending for safetensors, whatever it holds
    can_map = _CAN_MAP and not str(path).endswith('.safetensors')
    if is_zip and not progress and can_map:
        source, options['mmap'] = str(path), True
    try:
        return torch.load(source, weights_only=True, **options)
    except (pickle.UnpicklingError, RuntimeError):
        # RuntimeError: the tar files of torch before 0.1.10, and whatever
        # is damaged, which fails again
        if not of_run:
            raise
    if not isinstance(source, str):
        source.seek(start)
    with warnings.catch_warnings():
        # that a module's class has changed: none is used
        warnings.simplefilter('ignore', SourceChangeWarning)
        return torch.load(
            source, weights_only=False, pickle_module=tensors_only, **options
        )


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith('/constants.pkl') for name in names)


def is_safetensors(path: Path) -> bool:
    """By content: the length of a header, and JSON."""
    with open(path, 'rb') as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], 'little')
    return head[8:] == b'{' and length + 8 <= path.stat().st_size


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of safetensors, mapped."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'{path} is a file of safetensors: pip install safetensors'
        ) from error
    return load_file(path)


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
    found.metadata = dict(getattr(found.state, '_metadata', {}))
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
