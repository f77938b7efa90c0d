# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which implementation of the sweeps an input gets."""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType
from typing import NamedTuple

from torch import Tensor

# Fastest first; each but the last knows inputs that it does not take.
_MODULES = {
    'triton': 'sn_mm.kernels.triton.sweeps',
    'native': 'sn_mm.kernels.native.sweeps',
    'aten': 'sn_mm.kernels.aten',
}
_VARIABLE = 'SN_MM_BACKEND'


class Backends(NamedTuple):
    """What :func:`backends` found out.

    Attributes:
        chosen: the implementation that runs.
        why_not: by name, why faster implementations do not take the input.
        details: by name, how an implementation was set up for this machine.
    """

    chosen: str
    why_not: dict[str, str]
    details: dict[str, str]

    def __str__(self) -> str:
        lines = [f'{self.chosen} runs']
        lines += [f'not {name}: {why}' for name, why in self.why_not.items()]
        lines += [f'{name}: {text}' for name, text in self.details.items()]
        return '\n'.join(lines)


def choose(x: Tensor, forced: str | None = None) -> ModuleType:
    """The fastest implementation that takes x.

    Args:
        x: (N, C, *spatial), not empty.
        forced: 'triton', 'native' or 'aten', in place of the fastest;
            default: what the environment variable SN_MM_BACKEND says, if it
            is set.

    Raises:
        ValueError: if there is no implementation of that name, or it cannot
            take x.
    """
    forced = forced or os.environ.get(_VARIABLE)
    if forced:
        return _forced(x, forced)
    fast = _module('triton' if x.is_cuda else 'native')
    return _module('aten') if fast.why_not(x) else fast


def backends(x: Tensor, forced: str | None = None) -> Backends:
    """Which implementation an input gets, and why not a faster one.

    Args:
        x: (N, C, *spatial), an input of a layer.
        forced: as for :func:`choose`.

    Raises:
        TypeError, ValueError: if x is no tensor of such a shape; as
            :func:`choose`.

    Example:
        >>> import torch, sn_mm
        >>> sn_mm.backends(torch.rand(2, 3, 4, 4, dtype=torch.double)).chosen
        'aten'
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f'expected an input, a tensor (N, C, *spatial), got a '
            f'{type(x).__name__}'
        )
    if x.dim() < 2:
        raise ValueError(
            f'expected an input of shape (N, C, *spatial), got '
            f'{tuple(x.shape)}'
        )
    chosen = choose(x, forced).name
    reasons, details = {}, {}
    for name in _MODULES:
        module = _module(name)
        if name == chosen:
            describe = getattr(module, 'describe_library', None)
            if describe is not None:
                details[name] = describe()
            break
        reasons[name] = module.why_not(x) or (
            f'{chosen} is asked for by argument or {_VARIABLE}'
        )
    return Backends(chosen, reasons, details)


def check_name(name: str) -> None:
    """Raise a ValueError for a name that no implementation has."""
    if name not in _MODULES:
        raise ValueError(
            f'unknown backend {name!r} (argument or environment variable '
            f'{_VARIABLE}); choose from {", ".join(_MODULES)}'
        )


def _forced(x: Tensor, name: str) -> ModuleType:
    check_name(name)
    module = _module(name)
    reason = module.why_not(x)
    if reason:
        raise ValueError(
            f'backend {name!r} was asked for (argument or environment '
            f'variable {_VARIABLE}), but cannot take this input: {reason}'
        )
    return module


@functools.cache
def _module(name: str) -> ModuleType:
    """Imported when first needed: Triton's compiler takes a second."""
    return importlib.import_module(_MODULES[name])
