# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Running averages of the batches' moments: the buffers of a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from sn_mm.kernels.fused import switch_native, switch_triton

from .traced import is_recorded


def update_running(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    batch: Tensor,
    momentum: float | None,
) -> None:
    """Move running statistics, in place, towards a batch's.

    A batch whose moments are not all finite is passed over, and not
    counted: one overflow (AMP) would spoil the averages for good.

    Args:
        mean, var: (C,).
        count: () number of batches so far, int64.
        batch: (2, 1, C), the batch's mean and variance; or (3, 1, C) with
            its number of positions: nothing moves if that is 0.
        momentum: weight of the batch's; None averages over all batches.
    """
    kernels = switch_triton if mean.is_cuda else switch_native
    if not is_recorded() and kernels.move_running(
        mean, var, count, batch, momentum
    ):
        return
    with torch.no_grad():
        _update(mean, var, count, batch, momentum)


def _update(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    batch: Tensor,
    momentum: Tensor | float | None,
) -> None:
    # No branch on what was seen: reading it would stall a GPU.
    moments = batch[:2, 0]
    seen = moments.to(mean.dtype).isfinite().all()
    if batch.shape[0] > 2:
        seen = seen & (batch[2, 0, 0] > 0)
    if momentum is None:
        momentum = 1 / (count + seen).clamp(min=1).to(mean.dtype)
    step = seen.to(mean.dtype) * momentum  # a bool times 0.1 is a float32
    for own, new in ((mean, moments[0]), (var, moments[1])):
        # zeros, since infinity times 0 is NaN
        new = torch.where(seen, new, torch.zeros_like(new))
        own.lerp_(new.to(own.dtype), step.to(own.dtype))
    count.add_(seen)  # last: a refused buffer is no batch
