# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The passes on PyTorch's own kernels: any device, float32 and float64.

Rows (R, S) are viewed as (1, R, S, 1), so that each one is a "channel" of
batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .numbers import accumulation_dtype, rounded, widen

# Makes 1 / sqrt(var + eps) finite for constant rows, yet is lost in float32
# beside any variance that matters.
_TINY = 1e-12
# Rows with mean^2 above this many variances get their moments refined.
_FAR = 1e4

_aten = torch.ops.aten


def moments(rows: Tensor) -> Tensor:
    """Mean and biased variance (2, R) of every row (R, S), float64."""
    count, size = rows.shape
    view = rows.view(1, count, size, 1)
    if rows.is_cuda:
        m, rstd = torch.batch_norm_stats(view, _TINY)
    else:
        # Group norm with a group a row: the only CPU kernel whose moments
        # are both vectorized and centred (sums of x * (x - m) are not, once
        # |m| >> std: m is rounded and the error is multiplied by x).
        _, m, rstd = torch.native_group_norm(
            view, None, None, 1, count, size, count, _TINY
        )
    m, rstd = m.view(-1), widen(rstd.view(-1))
    v = rstd.pow(-2).sub_(_TINY).clamp_(min=0)
    mean = widen(m)
    if not rows.is_cuda and bool((mean.square() > _FAR * v).any()):
        # A float32 mean is off by up to 6e-8 |m|, which such rows show.
        shift, spread = (
            widen(s) / size for s in _sums(rows - m[:, None], rows, m)
        )
        mean, v = mean + shift, (spread - shift.square()).clamp_(min=0)
    return torch.stack([mean, v])


def affine(rows: Tensor, m: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * (rows - m) + shift; m, scale, shift: (R,)."""
    near, shift = rounded(rows, m, scale, shift)
    near, scale, shift = (t.to(near.dtype) for t in (near, scale, shift))
    if rows.is_cuda:
        one = torch.ones_like(near)
        out = torch.batch_norm_elemt(
            rows.view(1, *rows.shape), scale, shift, near, one, 0.0
        )
        return out.view(rows.shape)
    return (rows - near[:, None]).mul_(scale[:, None]).add_(shift[:, None])


def grad_sums(dy: Tensor, rows: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy) and sum(dy * (rows - m)), each (R,), float64."""
    near = m.to(accumulation_dtype(rows.dtype))
    s0, s1 = (widen(s) for s in _sums(dy, rows, near))
    return s0, s1 - (m - near) * s0


def input_grad(
    dy: Tensor,
    rows: Tensor,
    m: Tensor,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
) -> Tensor:
    """scale * dy + slope * (rows - m) + offset; vectors (R,)."""
    near, offset = rounded(rows, m, slope, offset)
    near, scale, slope, offset = (
        t.to(near.dtype)[:, None] for t in (near, scale, slope, offset)
    )
    out = (rows - near).mul_(slope).add_(offset)
    return out.addcmul_(dy.to(out.dtype), scale)


def _sums(dy: Tensor, rows: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy), sum(dy * (rows - m)) in m's dtype."""
    one = torch.ones_like(m)
    dy, rows = (t.view(1, *t.shape, 1) for t in (dy, rows))
    if rows.is_cuda:
        s0, s1, _, _ = torch.batch_norm_backward_reduce(
            dy, rows, m, one, None, True, False, False
        )
    else:
        _, s1, s0 = _aten.native_batch_norm_backward(
            dy, rows, None, None, None, m, one, True, 0.0, [False, True, True]
        )
    return s0, s1
