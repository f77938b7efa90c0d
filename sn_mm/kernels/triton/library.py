# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Loads the kernels, and sees once that they work on a device."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import warnings
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from types import ModuleType

import torch

# The first with the compiler interface that the kernels are written for;
# PyTorch 2.1 brings it.
_OLDEST = (2, 1)

# By device and what is run there: None, or why the kernels cannot be taken.
_seen: dict[tuple[torch.device, Hashable], str | None] = {}


def problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """None if the sweeps work there, or one sentence why not."""

    def difference() -> str | None:
        # Not imported above: it runs the sweeps, which ask this module.
        from .trial import difference

        return difference(device, dtype)

    return first_use(device, dtype, difference)


def first_use(
    device: torch.device,
    what: Hashable,
    difference: Callable[[], str | None],
) -> str | None:
    """None if some kernels work on a device, or one sentence why not.

    The first call compiles them, runs them on a small input and compares:
    Triton needs a C compiler at run time and does not know every GPU, and a
    training run should not end there. The answer is remembered, unless
    something else than the kernels was in the way.

    Args:
        what: what is tried; its text goes into a warning if it fails.
        difference: runs the kernels and says what is wrong with the results.
    """
    key = (device, what)
    if key not in _seen:
        if device.type != 'cuda':
            return _other_device(device)
        reason, is_final = _find_problem(device, difference)
        if not is_final:
            return reason
        _seen[key] = reason
        if reason is not None and missing() is None:
            warnings.warn(
                f'no Triton kernels for {what} on {device}, PyTorch ones '
                f'instead, which are slower: {reason}',
                stacklevel=2,
            )
    return _seen[key]


@functools.cache
def missing() -> str | None:
    """None if there is a Triton to take, or one sentence why not."""
    try:
        import triton
    except Exception as error:  # a broken one raises anything
        return f'Triton cannot be imported ({error})'
    version = triton.__version__
    if tuple(map(int, re.findall(r'\d+', version)[:2])) < _OLDEST:
        return f'Triton {version} is older than 2.1'
    return None


@functools.cache
def kernels() -> ModuleType:
    """The module of the kernels; only where Triton is not missing."""
    return importlib.import_module('.kernels', __package__)


@functools.cache
def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes any device."""
    if missing() is not None:
        return False
    return type(kernels().affine_kernel).__name__ == 'InterpretedFunction'


def on(device: torch.device) -> AbstractContextManager:
    """Makes the device current: Triton launches on the current one."""
    if device.type == 'cuda':
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def _other_device(device: torch.device) -> str | None:
    if is_interpreted():
        return None
    return f'it is on {device.type}, and the kernels run on a CUDA device'


def _find_problem(
    device: torch.device, difference: Callable[[], str | None]
) -> tuple[str | None, bool]:
    """What :func:`first_use` says, and whether that is so for good."""
    reason = missing()
    if reason is not None:
        return reason, True
    with on(device):
        is_capturing = torch.cuda.is_current_stream_capturing()
    if is_capturing:
        return (
            'they were not tried before a CUDA graph was captured; run the '
            'model once first'
        ), False
    try:
        with torch.no_grad():
            return difference(), True
    except Exception as error:  # whatever a compiler raises
        reason = f'they fail: {type(error).__name__}: {error}'
        return reason, not _is_out_of_memory(error)


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch's error, or what Triton makes of the driver's."""
    return (
        isinstance(error, torch.cuda.OutOfMemoryError)
        or 'out of memory' in str(error).lower()
    )
