# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Running averages of the batches' moments: the buffers of a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from sn_mm.kernels.fused import switch_native

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
        batch: (2, 1, C), the batch's mean and variance, without gradient;
            or (3, 1, C) with its number of positions: nothing moves if that
            is 0.
        momentum: weight of the batch's; None averages over all batches.
    """
    if not is_recorded() and switch_native.move(
        mean, var, count, batch, momentum
    ):
        return
    # No branch on what was seen: reading it would stall a GPU.
    moments = batch[:2, 0]
    seen = moments.isfinite().all()
    if batch.shape[0] > 2:
        seen = seen & (batch[2, 0, 0] > 0)
    count.add_(seen)
    step = 1 / count.clamp(min=1) if momentum is None else momentum
    step = seen.to(mean.dtype) * step  # a bool times 0.1 is a float32
    moments = torch.where(seen, moments, torch.zeros_like(moments)).to(mean)
    mean.lerp_(moments[0], step)
    var.lerp_(moments[1], step)
