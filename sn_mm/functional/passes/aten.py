# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The passes on PyTorch's own kernels: any device, float32 and float64.

Rows (R, S) are viewed as (1, R, S, 1), so that each one is a "channel" of
batch norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .numbers import accumulation_dtype, widen

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


def apply(
    rows: Tensor,
    m: Tensor,
    mixed: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """weight * (rows - mu) / sqrt(var + eps) + bias.

    Args:
        rows: (R, S).
        m: (R,) means of the rows, from which everything is centred: rows - m
            does not cancel where |m| >> std.
        mixed: (2, R), mu and var.
        weight, bias: (C,) or None; row r has channel r mod C.
    """
    scale = _scale(mixed[1], weight, eps)
    near = m.to(accumulation_dtype(rows.dtype))
    shift = scale * (near - mixed[0])
    if bias is not None:
        shift = shift + _per_row(bias, rows)
    scale, shift = scale.to(near.dtype), shift.to(near.dtype)
    if rows.is_cuda:
        out = torch.batch_norm_elemt(
            rows.view(1, *rows.shape),
            scale,
            shift,
            near,
            torch.ones_like(near),
            0.0,
        )
        return out.view(rows.shape)
    return (rows - near[:, None]).mul_(scale[:, None]).add_(shift[:, None])


def reduce(
    dy: Tensor,
    rows: Tensor,
    m: Tensor,
    mixed: Tensor,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Sums over rows for the backward; arguments as in :func:`apply`.

    Returns:
        sums (2, R), sum(dy) and sum(dy * (rows - mu)) / sqrt(var + eps), and
        the gradient (2, R) of the mixed moments, all float64.
    """
    near = m.to(accumulation_dtype(rows.dtype))
    s0, s1 = (widen(s) for s in _sums(dy, rows, near))
    rstd, scale = _scale(mixed[1], None, eps), _scale(mixed[1], weight, eps)
    s1 = (s1 + (near - mixed[0]) * s0) * rstd
    d_mixed = torch.stack([-scale * s0, -0.5 * scale * rstd * s1])
    return torch.stack([s0, s1]), d_mixed


def input_grad(
    dy: Tensor,
    rows: Tensor,
    m: Tensor,
    var: Tensor,
    weight: Tensor | None,
    eps: float,
    d_moments: Tensor,
) -> Tensor:
    """The gradient of the rows.

    weight / sqrt(var + eps) * dy + (d_m + 2 * d_v * (rows - m)) / S

    Args:
        d_moments: (2, R), d_m and d_v; others as in :func:`apply`.
    """
    near = m.to(accumulation_dtype(rows.dtype))
    d_m, d_v = d_moments / rows.shape[1]
    offset = d_m + 2 * d_v * (near - m)
    scale, slope, offset = (
        t.to(near.dtype)[:, None]
        for t in (_scale(var, weight, eps), 2 * d_v, offset)
    )
    out = (rows - near[:, None]).mul_(slope).add_(offset)
    return out.addcmul_(dy.to(out.dtype), scale)


def _per_row(t: Tensor, rows: Tensor) -> Tensor:
    """(C,) as (R,)."""
    return t.repeat(rows.shape[0] // len(t))


def _scale(var: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    rstd = (var + eps).rsqrt()
    return rstd if weight is None else rstd * _per_row(weight, rstd)


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
