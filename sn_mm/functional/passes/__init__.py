# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The four passes over memory that every normalizer of the family needs.

Each takes x of shape (N, C, *spatial) as rows, one for each (n, c), and
leaves the work to PyTorch's own kernels (aten). Sums run in float32 (float64
for float64 input) and are always centred; the N x C numbers between the
passes are float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import aten
from .numbers import accumulation_dtype, cast, widen

__all__ = [
    'accumulation_dtype',
    'apply',
    'cast',
    'channels_last',
    'dense',
    'input_grad',
    'instance_moments',
    'like',
    'reduce',
    'rows_of',
    'spatial_size',
    'widen',
    'worth_keeping',
]


_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


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
    rows = rows_of(x)
    return aten.moments(rows).view(2, *x.shape[:2])


def apply(
    x: Tensor,
    m: Tensor,
    mixed: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """y = weight * (x - mu) / sqrt(var + eps) + bias. Shaped like x.

    Args:
        x: (N, C, *spatial), not empty.
        m: (N, C) means of the rows. x is centred on them, so that nothing
            cancels where |m| >> std.
        mixed: (2, N, C), mu and var.
        weight, bias: (C,) or None.
    """
    rows = rows_of(x)
    out = aten.apply(rows, m.view(-1), mixed.reshape(2, -1), weight, bias, eps)
    return like(out, x)


def reduce(
    dy: Tensor,
    x: Tensor,
    m: Tensor,
    mixed: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Sums over rows for the backward.

    Args:
        dy, x: (N, C, *spatial), not empty.
        m, mixed, weight, eps: as in :func:`apply`.

    Returns:
        sums (2, N, C): sum(dy) and sum(dy * (x - mu)) / sqrt(var + eps), of
        which d_bias and d_weight are the sums over N; and d_mixed (2, N, C),
        the gradients of mu and var; float64.
    """
    rows = rows_of(x)
    pair = aten.reduce(
        rows_of(dy, x), rows, m.view(-1), mixed.reshape(2, -1), weight, eps
    )
    return tuple(t.view(2, *m.shape) for t in pair)


def input_grad(
    dy: Tensor,
    x: Tensor,
    m: Tensor,
    var: Tensor,
    weight: Tensor | None,
    eps: float,
    d_moments: Tensor,
) -> Tensor:
    """weight / sqrt(var + eps) * dy + (d_m + 2 * d_v * (x - m)) / S.

    Args:
        dy, x: (N, C, *spatial), not empty.
        m, var: (N, C).
        weight: (C,) or None.
        d_moments: (2, N, C), d_m and d_v.

    Returns:
        The gradient of x, shaped like x.
    """
    rows = rows_of(x)
    out = aten.input_grad(
        rows_of(dy, x),
        rows,
        m.view(-1),
        var.reshape(-1),
        weight,
        eps,
        d_moments.view(2, -1),
    )
    return like(out, x)


def rows_of(t: Tensor, like: Tensor | None = None) -> Tensor:
    """t (N, C, *spatial) as (N * C, S), in a dtype the kernels take.

    CUDA's kernels read half precision and accumulate in float32; the CPU's
    want one dtype throughout.
    """
    dtype = t.dtype if like is None else like.dtype
    if not t.is_cuda:
        dtype = accumulation_dtype(dtype)
    return t.to(dtype).contiguous().view(t.shape[0] * t.shape[1], -1)


def channels_last(x: Tensor) -> bool:
    """Whether x (N, C, *spatial) is dense as (N, *spatial, C) only."""
    form = _LAST.get(x.dim())
    if form is None or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=form)


def dense(x: Tensor, last: bool) -> Tensor:
    """x without gaps in memory, its channels last or before the positions."""
    if last:
        return x.contiguous(memory_format=_LAST[x.dim()])
    return x.contiguous()


def like(out: Tensor, x: Tensor) -> Tensor:
    """Rows back in the shape, dtype and memory format of ``x``.

    ``_unsafe_view`` and not ``view``: a custom autograd function that
    returns a view makes the in-place ReLU after a norm layer fail.
    """
    out = torch.ops.aten._unsafe_view(out, x.shape).to(x.dtype)
    return dense(out, channels_last(x))


def worth_keeping(rows: int, x: Tensor) -> bool:
    """Whether moments of that many rows are small beside x.

    They are recomputed otherwise: rows of a 7 x 7 RoI feature are so short
    that their moments would add 8% to what is kept for backward.
    """
    kept = rows * 2 * 8  # two doubles each
    return kept <= 0.02 * x.numel() * x.element_size() or not x.numel()
