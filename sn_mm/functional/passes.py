# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The four passes over memory that every normalizer of the family needs.

Each (n, c) row of x, of shape (N, C, *spatial), is one "channel" of a batch
norm over the view (1, N * C, S, 1), S being the number of positions.
PyTorch's own fused kernels then do what would otherwise take several
broadcasting operations. Statistics are float32 (float64 for float64 input)
and always centred.
"""
from __future__ import annotations

import math

import torch
from torch import Tensor

# Makes 1 / sqrt(var + eps) finite for constant rows, yet is lost in float32
# beside any variance that matters.
_TINY = 1e-12

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


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every (n, c) row.

    Args:
        x: (N, C, *spatial), not empty.

    Returns:
        m, v, each (N, C), of :func:`accumulation_dtype`.
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
    v = rstd.pow(-2).sub_(_TINY).clamp_(min=0)
    return m.view(x.shape[:2]), v.view(x.shape[:2])


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * x + shift per row; scale, shift: (N, C). Shaped like x."""
    rows = _rows(x)
    scale, shift = scale.reshape(-1), shift.reshape(-1)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    if rows.is_cuda:
        out = torch.batch_norm_elemt(rows, scale, shift, zero, one, 0.)
    else:
        out = torch.batch_norm(
            rows, scale, shift, zero, one, False, 0., 0., False)
    return _like(out, x)


def grad_sums(dy: Tensor, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """sum(dy) and sum(dy * (x - m)) per row.

    Args:
        dy, x: (N, C, *spatial), not empty.
        m: (N, C) row means.

    Returns:
        s0, s1, each (N, C), of :func:`accumulation_dtype`.
    """
    m = m.reshape(-1)
    one = torch.ones_like(m)
    if x.is_cuda:
        s0, s1, _, _ = torch.batch_norm_backward_reduce(
            _rows(dy.to(x.dtype)), _rows(x), m, one, None, True, False, False)
    else:
        _, s1, s0 = _aten.native_batch_norm_backward(
            _rows(dy), _rows(x), None, None, None, m, one, True, 0.,
            [False, True, True])
    return s0.view(x.shape[:2]), s1.view(x.shape[:2])


def input_grad(dy: Tensor, x: Tensor, m: Tensor, scale: Tensor, slope: Tensor,
               offset: Tensor) -> Tensor:
    """scale * dy + slope * (x - m) + offset per row. Shaped like x.

    Args:
        dy, x: (N, C, *spatial).
        m, scale, slope, offset: (N, C).
    """
    shape = (1, -1, 1, 1)
    out = _rows(x) - m.view(shape)
    out.mul_(slope.view(shape)).add_(offset.view(shape))
    out.addcmul_(_rows(dy).to(out.dtype), scale.view(shape))
    return _like(out, x)
