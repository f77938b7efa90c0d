# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Running averages of the batch's moments: the buffers of a layer."""

from __future__ import annotations

from torch import Tensor

from .engines import native
from .tracing import is_traced


def move(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    pooled: Tensor,
    momentum: float | None,
) -> None:
    """Move running statistics, in place, towards a batch's.

    Args:
        mean, var: (C,).
        count: () number of batches so far, int64.
        pooled: (2, 1, C), the batch's mean and variance, without gradient;
            or (3, 1, C) with its number of positions: nothing moves if that
            is 0.
        momentum: weight of the batch's; None averages over all batches.
    """
    if not is_traced() and native.moves(mean, var, count, pooled, momentum):
        native.move(mean, var, count, pooled, momentum)
        return
    # No branch on the positions: reading them would stall a GPU.
    seen = pooled[2, 0, 0] > 0 if pooled.shape[0] > 2 else 1
    count.add_(seen)
    step = 1 / count.clamp(min=1) if momentum is None else momentum
    step = seen * step
    if isinstance(step, Tensor):
        step = step.to(mean)
    batch = pooled[:2].squeeze(1).to(mean)
    mean.lerp_(batch[0], step)
    var.lerp_(batch[1], step)
