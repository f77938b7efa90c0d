# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The four passes over memory that every normalizer of the family needs.

Each takes x of shape (N, C, *spatial) as rows, one for each (n, c), and
leaves the work to a backend: PyTorch's own kernels (aten), or a small C
library for float32 on the CPU (native). Sums run in float32 (float64 for
float64 input) and are always centred; the N x C numbers between the passes
are float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import aten, native
from .numbers import accumulation_dtype, widen

__all__ = [
    'accumulation_dtype',
    'affine',
    'grad_sums',
    'input_grad',
    'instance_moments',
    'spatial_size',
    'widen',
]


def spatial_size(x: Tensor) -> int:
    """S, the number of positions in one (n, c) row of (N, C, *spatial)."""
    return math.prod(x.shape[2:])


def instance_moments(x: Tensor) -> Tensor:
    """Mean and biased variance of every (n, c) row.

    Args:
        x: (N, C, *spatial), not empty.

    Returns:
        (2, N, C), means and variances, float64 (see :func:`widen`).
    """
    rows = _rows(x)
    return _backend(rows).moments(rows).view(2, *x.shape[:2])


def affine(x: Tensor, m: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * (x - m) + shift per row. Shaped like x.

    Args:
        x: (N, C, *spatial), not empty.
        m, scale, shift: (N, C). x - m, and not scale * x + (shift - scale *
            m), which cancels where |m| >> std.
    """
    rows = _rows(x)
    vectors = (t.reshape(-1) for t in (m, scale, shift))
    return _like(_backend(rows).affine(rows, *vectors), x)


def grad_sums(dy: Tensor, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy) and sum(dy * (x - m)) per row.

    Args:
        dy, x: (N, C, *spatial), not empty.
        m: (N, C) row means.

    Returns:
        s0, s1, each (N, C), float64 (see :func:`widen`).
    """
    rows = _rows(x)
    sums = _backend(rows).grad_sums(_rows(dy, x), rows, m.reshape(-1))
    return tuple(s.view(m.shape) for s in sums)


def input_grad(
    dy: Tensor,
    x: Tensor,
    m: Tensor,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
) -> Tensor:
    """scale * dy + slope * (x - m) + offset per row. Shaped like x.

    Args:
        dy, x: (N, C, *spatial), not empty.
        m, scale, slope, offset: (N, C).
    """
    rows = _rows(x)
    vectors = (t.reshape(-1) for t in (m, scale, slope, offset))
    return _like(_backend(rows).input_grad(_rows(dy, x), rows, *vectors), x)


def _backend(rows: Tensor):
    return native if native.takes(rows) else aten


def _rows(t: Tensor, like: Tensor | None = None) -> Tensor:
    """t (N, C, *spatial) as (N * C, S), in a dtype the kernels take.

    CUDA's kernels read half precision and accumulate in float32; the CPU's
    want one dtype throughout.
    """
    dtype = t.dtype if like is None else like.dtype
    if not t.is_cuda:
        dtype = accumulation_dtype(dtype)
    return t.to(dtype).contiguous().view(t.shape[0] * t.shape[1], -1)


def _like(out: Tensor, x: Tensor) -> Tensor:
    """Rows back in the shape, dtype and memory format of ``x``.

    ``_unsafe_view`` and not ``view``: a custom autograd function that
    returns a view makes the in-place ReLU after a norm layer fail.
    """
    out = torch.ops.aten._unsafe_view(out, x.shape).to(x.dtype)
    if x.is_contiguous():
        return out
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return out.contiguous(memory_format=torch.channels_last)
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return out.contiguous(memory_format=torch.channels_last_3d)
    return out
