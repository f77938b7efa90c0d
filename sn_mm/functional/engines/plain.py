# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Any mixing, on any device: PyTorch's kernels for passes and numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import passes
from ..mixing import Mixing, State


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing: Mixing,
    params: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor | None, State]:
    """See :mod:`sn_mm.functional.engines`."""
    moments, size = _moments(x), passes.spatial_size(x)
    state = mixing.collect(moments, size)
    mixed = mixing.mix(moments, size, state, *params).expand_as(moments)
    if x.numel():
        y = passes.apply(x, moments[0], mixed, weight, bias, eps)
    else:
        y = torch.empty_like(x)
    return (
        y,
        moments if passes.worth_keeping(moments[0].numel(), x) else None,
        state,
    )


def backward(
    dy: Tensor,
    x: Tensor,
    moments: Tensor | None,
    state: State,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing: Mixing,
    params: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """See :mod:`sn_mm.functional.engines`."""
    if moments is None:
        moments = _moments(x)
    m, size = moments[0], passes.spatial_size(x)
    mixed = mixing.mix(moments, size, state, *params).expand_as(moments)
    sums = d_mixed = torch.zeros_like(moments)
    if x.numel():
        sums, d_mixed = passes.reduce(dy, x, m, mixed, weight, eps)
    # Also for an empty batch: other processes may wait in there.
    d_moments, *d_params = mixing.backward(
        moments, size, state, params, d_mixed
    )
    if x.numel():
        d_x = passes.input_grad(dy, x, m, mixed[1], weight, eps, d_moments)
    else:
        d_x = torch.empty_like(x)
    d_bias, d_weight = sums.sum(1)
    return d_x, d_weight, d_bias, d_params


def _moments(x: Tensor) -> Tensor:
    """(2, N, C) instance moments, zeros where there is nothing."""
    if x.numel():
        return passes.instance_moments(x)
    return passes.widen(x.new_zeros(2, *x.shape[:2], dtype=torch.float32))
