# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Filter Response Normalization: no mean is taken out.

Its thresholded linear unit max(y, tau) is max(y - tau, 0) + tau: a ReLU, which
the sweeps have, and an addition.

Singh, Krishnan, "Filter Response Normalization Layer: Eliminating Batch
Dependence in the Training of Deep Neural Networks", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sn_mm.kernels.layout import accumulation_dtype, cast

from .traced import inverse_root, is_traced


class FilterResponseRule:
    """y = weight x / sqrt(mean of x^2 over positions + |eps|) + bias - tau."""

    def __init__(self, eps: float = 1e-6) -> None:
        self.eps = eps

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        tau: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            weight, bias, tau: (C,) or None.
        """
        scale = inverse_root(v + m.square() + abs(self.eps))
        if weight is not None:
            scale = scale * weight
        zeros = torch.zeros_like(m[:1])
        bias = zeros if bias is None else bias.to(m.dtype)
        return zeros, scale, bias if tau is None else bias - tau.to(m.dtype)


def raise_by(y: Tensor, tau: Tensor) -> Tensor:
    """y + tau of each channel, in y's memory where nobody looks.

    Args:
        y: (N, C, *spatial), not needed any more.
        tau: (C,), in the precision that its gradient is summed up in.

    Returns:
        Of y's shape and dtype.
    """
    if is_traced(y):
        return (y + _over_positions(tau, y)).to(y.dtype)
    return _RaiseBy.apply(y, tau)


class _RaiseBy(torch.autograd.Function):
    """In place, and a gradient of tau in tau's precision, not in y's."""

    @staticmethod
    def forward(ctx, y: Tensor, tau: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        ctx.dtype = tau.dtype
        return y.add_(_over_positions(tau, y))

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return dy, None
        rows = cast(dy, accumulation_dtype(dy.dtype))
        if dy.dim() > 2:
            rows = rows.sum(tuple(range(2, dy.dim())))
        return dy, rows.to(ctx.dtype).sum(0)


def _over_positions(tau: Tensor, y: Tensor) -> Tensor:
    tau = tau.to(accumulation_dtype(y.dtype))
    return tau.view(-1, *[1] * (y.dim() - 2))
