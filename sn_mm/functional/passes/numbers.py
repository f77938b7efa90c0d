# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Precision of the numbers between the passes."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the passes compute for an input of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """t.to(dtype), which takes microseconds to find nothing to do."""
    return t if t.dtype is dtype else t.to(dtype)


def widen(t: Tensor) -> Tensor:
    """float64 for N x C numbers, so that a large mean loses no digits."""
    return t.double() if t.device.type != 'mps' else t
