# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps on PyTorch's own kernels: any device, float64 too.

The slowest implementation, and the one that the others fall back to: what it
cannot compute, PyTorch refuses. Rows (R, S) are viewed as (1, R, S, 1), so
that each of them is a "channel" of batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import factors as factors
from .layout import accumulation_dtype, dense, is_channels_last, widen

name = 'aten'

# Makes 1 / sqrt(var + eps) finite for constant rows, yet is lost in float32
# beside any variance that matters.
_TINY = 1e-12
# Rows whose squared mean is above this many variances are measured again.
_FAR = 1e4

_aten = torch.ops.aten


def why_not(x: Tensor) -> str | None:
    """None: this implementation takes every input."""
    return None


def moments(x: Tensor) -> Tensor:
    """Mean and biased variance of every row.

    Args:
        x: (N, C, *spatial), not empty.

    Returns:
        (2, N, C), float64. Sums run in float32 (float64 for float64) about a
        value near the mean, so that a large mean costs no digits.
    """
    rows = _rows(x)
    count, size = rows.shape
    view = rows.view(1, count, size, 1)
    if rows.is_cuda:
        near, rstd = torch.batch_norm_stats(view, _TINY)
    else:
        # Group norm with one group for each row: the only CPU kernel whose
        # moments are both vectorized and centred.
        _, near, rstd = torch.native_group_norm(
            view, None, None, 1, count, size, count, _TINY
        )
    near, rstd = near.view(-1), widen(rstd.view(-1))
    mean, var = widen(near), rstd.pow(-2).sub_(_TINY).clamp_(min=0)
    if not rows.is_cuda and bool((mean.square() > _FAR * var).any()):
        # A float32 mean is off by up to 6e-8 of itself, which shows here.
        shift, square = (
            widen(s) / size for s in _sums(rows - near[:, None], rows, near)
        )
        mean, var = mean + shift, (square - shift.square()).clamp_(min=0)
    return torch.stack([mean, var]).view(2, *x.shape[:2])


def affine(
    x: Tensor, near: Tensor, scale: Tensor, shift: Tensor, relu: bool = False
) -> Tensor:
    """y = scale * (x - near) + shift, and max(y, 0) with ``relu``.

    Args:
        x: (N, C, *spatial), not empty.
        near, scale, shift: (N, C), in x's accumulation dtype.

    Returns:
        y, of x's shape, dtype and memory format.
    """
    rows = _rows(x)
    if rows.is_cuda:
        y = torch.batch_norm_elemt(
            rows.view(1, *rows.shape),
            scale.reshape(-1),
            shift.reshape(-1),
            near.reshape(-1),
            torch.ones_like(near.reshape(-1)),
            0.0,
        ).view(rows.shape)
    else:
        y = (rows - _column(near)).mul_(_column(scale)).add_(_column(shift))
    return _like(y.relu_() if relu else y, x)


def products(
    dy: Tensor,
    x: Tensor,
    near: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """sum(dy) and sum(dy * (x - near)) of every row.

    Args:
        dy, x: (N, C, *spatial), not empty.
        near: (N, C).
        gate: scale and shift of an :func:`affine` with ``relu``: dy counts
            only where that was positive.

    Returns:
        (2, N, C), float64.
    """
    rows = _rows(x)
    dy = _gated(_rows(dy, x), rows, near, gate)
    sums = _sums(dy, rows, near.reshape(-1))
    return torch.stack([widen(s) for s in sums]).view(2, *x.shape[:2])


def combine(
    dy: Tensor,
    x: Tensor,
    scale: Tensor,
    near: Tensor,
    slope: Tensor,
    shift: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """dx = scale * dy + slope * (x - near) + shift.

    Args:
        dy, x, gate: as for :func:`products`.
        scale, near, slope, shift: (N, C).

    Returns:
        dx, of x's shape, dtype and memory format.
    """
    rows = _rows(x)
    dy = _gated(_rows(dy, x), rows, near, gate)
    dx = (rows - _column(near)).mul_(_column(slope)).add_(_column(shift))
    return _like(dx.addcmul_(dy.to(dx.dtype), _column(scale)), x)


def remeasure(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`moments`, and :func:`products` about their means."""
    measured = moments(x)
    near = measured[0].to(accumulation_dtype(x.dtype))
    return measured, products(dy, x, near)


def _rows(t: Tensor, like: Tensor | None = None) -> Tensor:
    """t (N, C, *spatial) as (N * C, S), in a dtype that the kernels take.

    CUDA's kernels read half precision and accumulate in float32; the CPU's
    want one dtype throughout.
    """
    dtype = t.dtype if like is None else like.dtype
    if t._is_zerotensor():  # some kernels would read what is not there
        t = t.clone()
    if not t.is_cuda:
        dtype = accumulation_dtype(dtype)
    return t.to(dtype).contiguous().view(t.shape[0] * t.shape[1], -1)


def _column(t: Tensor) -> Tensor:
    """(N, C) as (N * C, 1)."""
    return t.reshape(-1, 1)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """Rows in x's shape, dtype and memory format.

    ``_unsafe_view`` and not ``view``: a custom autograd function that
    returns a view makes the in-place ReLU after a norm layer fail.
    """
    out = _aten._unsafe_view(rows, x.shape).to(x.dtype)
    return dense(out, is_channels_last(x))


def _gated(
    dy: Tensor,
    rows: Tensor,
    near: Tensor,
    gate: tuple[Tensor, Tensor] | None,
) -> Tensor:
    if gate is None:
        return dy
    scale, shift = map(_column, gate)
    y = (rows - _column(near)).mul_(scale).add_(shift)
    return dy * (y > 0)


def _sums(dy: Tensor, rows: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy) and sum(dy * (rows - near)), in near's dtype."""
    one = torch.ones_like(near)
    view, columns = (t.view(1, *t.shape, 1) for t in (dy, rows))
    if rows.is_cuda:
        s0, s1, _, _ = torch.batch_norm_backward_reduce(
            view, columns, near, one, None, True, False, False
        )
        return s0, s1
    _, s1, _ = _aten.native_batch_norm_backward(
        *(view, columns, None, None, None, near, one, True, 0.0),
        [False, True, False],
    )
    # batch norm's own sum of dy runs in one float32 variable
    return dy.sum(1), s1
