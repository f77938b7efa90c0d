# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The four passes over memory that every normalizer of the family needs.

Each (n, c) row of x, of shape (N, C, *spatial), is one "channel" of a batch
norm over the view (1, N * C, S, 1), S being the number of positions.
PyTorch's own fused kernels then do what would otherwise take several
broadcasting operations. Sums run in float32 (float64 for float64 input) and
are always centred; the N x C numbers between the passes are float64.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

# Makes 1 / sqrt(var + eps) finite for constant rows, yet is lost in float32
# beside any variance that matters.
_TINY = 1e-12

# Rows with mean^2 above this many variances get their moments refined.
_FAR = 1e4

_aten = torch.ops.aten


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics for an input of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def spatial_size(x: Tensor) -> int:
    """S, the number of positions in one (n, c) row of (N, C, *spatial)."""
    return math.prod(x.shape[2:])


def _rows(x: Tensor) -> Tensor:
    """x (N, C, *spatial) as (1, N * C, S, 1), in a dtype the kernels take.

    CUDA's kernels read half precision and accumulate in float32; the CPU's
    want one dtype throughout.
    """
    if not x.is_cuda:
        x = x.to(accumulation_dtype(x.dtype))
    return x.contiguous().view(1, x.shape[0] * x.shape[1], -1, 1)


def _like(out: Tensor, x: Tensor) -> Tensor:
    """Rows back in the shape, dtype and memory format of ``x``.

    ``_unsafe_view`` and not ``view``: a custom autograd function that
    returns a view makes the in-place ReLU after a norm layer fail.
    """
    out = _aten._unsafe_view(out, x.shape).to(x.dtype)
    if x.is_contiguous():
        return out
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return out.contiguous(memory_format=torch.channels_last)
    if x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d):
        return out.contiguous(memory_format=torch.channels_last_3d)
    return out


def widen(t: Tensor) -> Tensor:
    """float64 for N x C numbers, so that a large mean loses no digits."""
    return t.double() if t.device.type != 'mps' else t


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every (n, c) row.

    Args:
        x: (N, C, *spatial), not empty.

    Returns:
        m, v, each (N, C), float64 (see :func:`widen`).
    """
    rows = _rows(x)
    count, size = rows.shape[1:3]
    if rows.is_cuda:
        m, rstd = torch.batch_norm_stats(rows, _TINY)
    else:
        # Group norm with a group a row: the only CPU kernel whose moments
        # are both vectorized and centred (sums of x * (x - m) are not, once
        # |m| >> std: m is rounded and the error is multiplied by x).
        _, m, rstd = torch.native_group_norm(
            rows, None, None, 1, count, size, count, _TINY)
    m, rstd = m.view(-1), widen(rstd.view(-1))
    v = rstd.pow(-2).sub_(_TINY).clamp_(min=0)
    mean = widen(m)
    if not rows.is_cuda and bool((mean.square() > _FAR * v).any()):
        # A float32 mean is off by up to 6e-8 |m|, which such rows show.
        centred = rows - m.view(1, -1, 1, 1)
        shift, spread = (
            widen(s) / size for s in _raw_sums(centred, rows, m))
        mean, v = mean + shift, (spread - shift.square()).clamp_(min=0)
    return mean.view(x.shape[:2]), v.view(x.shape[:2])


def affine(x: Tensor, m: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * (x - m) + shift per row. Shaped like x.

    Args:
        x: (N, C, *spatial).
        m, scale, shift: (N, C). x - m, and not scale * x + (shift - scale *
            m), which cancels where |m| >> std.
    """
    near, shift = _rounded(x, m, scale, shift)
    rows = _rows(x)
    if rows.is_cuda:
        near, scale, shift = (
            t.to(near.dtype).view(-1) for t in (near, scale, shift))
        one = torch.ones_like(near)
        out = torch.batch_norm_elemt(rows, scale, shift, near, one, 0.)
    else:
        near, scale, shift = _columns(near.dtype, near, scale, shift)
        out = (rows - near).mul_(scale).add_(shift)
    return _like(out, x)


def grad_sums(dy: Tensor, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy) and sum(dy * (x - m)) per row.

    Args:
        dy, x: (N, C, *spatial), not empty.
        m: (N, C) row means.

    Returns:
        s0, s1, each (N, C), float64 (see :func:`widen`).
    """
    near = m.to(accumulation_dtype(x.dtype))
    s0, s1 = (
        widen(s).view(m.shape)
        for s in _raw_sums(_rows(dy.to(x.dtype)), _rows(x), near.view(-1)))
    return s0, s1 - (m - near) * s0


def _raw_sums(dy: Tensor, rows: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy), sum(dy * (rows - m)) for :func:`_rows`, in m's dtype."""
    one = torch.ones_like(m)
    if rows.is_cuda:
        s0, s1, _, _ = torch.batch_norm_backward_reduce(
            dy, rows, m, one, None, True, False, False)
    else:
        _, s1, s0 = _aten.native_batch_norm_backward(
            dy, rows, None, None, None, m, one, True, 0.,
            [False, True, True])
    return s0, s1


def input_grad(dy: Tensor, x: Tensor, m: Tensor, scale: Tensor, slope: Tensor,
               offset: Tensor) -> Tensor:
    """scale * dy + slope * (x - m) + offset per row. Shaped like x.

    Args:
        dy, x: (N, C, *spatial).
        m, scale, slope, offset: (N, C).
    """
    near, offset = _rounded(x, m, slope, offset)
    near, scale, slope, offset = _columns(near.dtype, near, scale, slope,
                                          offset)
    out = (_rows(x) - near).mul_(slope).add_(offset)
    out.addcmul_(_rows(dy).to(out.dtype), scale)
    return _like(out, x)


def _rounded(x: Tensor, m: Tensor, slope: Tensor,
             offset: Tensor) -> tuple[Tensor, Tensor]:
    """m as x's kernels hold it, and the offset that makes up for it.

    slope * (x - m) + offset = slope * (x - near) + offset'.
    """
    near = m.to(accumulation_dtype(x.dtype))
    return near, offset - slope * (m - near)


def _columns(dtype: torch.dtype, *ts: Tensor) -> tuple[Tensor, ...]:
    """(N, C) tensors, one number for each row of :func:`_rows`."""
    return tuple(t.to(dtype).reshape(1, -1, 1, 1) for t in ts)
