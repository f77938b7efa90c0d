# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How an input lies in memory, and the precision it is computed in.

An input is (N, C, *spatial) with S positions; one (n, c) is a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# what may be kept for backward beside the input, as a part of it
_KEPT_SHARE = 0.02
_BYTES_OF_A_ROW = 16  # its mean and variance, float64


def spatial_size(x: Tensor) -> int:
    """S, the number of positions in one row of x; 1 for (N, C)."""
    return math.prod(x.shape[2:])


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sweeps compute for an input of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t in ``dtype``; ``to`` takes a microsecond even to find it is."""
    return t if t.dtype is dtype else t.to(dtype)


def widen(t: Tensor) -> Tensor:
    """Numbers of rows in float64, where the device has it."""
    return t.double() if t.device.type != 'mps' else t


def is_channels_last(x: Tensor) -> bool:
    """Whether x is dense as (N, *spatial, C), and not as (N, C, *spatial)."""
    form = _CHANNELS_LAST.get(x.dim())
    if form is None or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=form)


def dense(x: Tensor, channels_last: bool) -> Tensor:
    """x without gaps in memory, in one of the two formats."""
    if channels_last:
        return x.contiguous(memory_format=_CHANNELS_LAST[x.dim()])
    return x.contiguous()


def is_worth_keeping(x: Tensor) -> bool:
    """Whether moments of x's rows are small beside x.

    Backward measures them again otherwise: rows of a 7 x 7 RoI feature are
    so short that their moments would add 8% to what is kept.
    """
    rows = x.shape[0] * x.shape[1] * _BYTES_OF_A_ROW
    return rows <= _KEPT_SHARE * x.numel() * x.element_size()
