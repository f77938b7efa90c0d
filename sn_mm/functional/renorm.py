# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Batch Renormalization.

Ioffe, "Batch Renormalization: Towards Reducing Minibatch Dependence in
Batch-Normalized Models", NeurIPS 2017 (arXiv 1702.03275).
"""

from __future__ import annotations

from typing import Union

import torch
import torch.distributed as dist
from torch import Tensor

from . import statistics

Limit = Union[float, Tensor]


class RenormRule:
    """The batch's moments, corrected towards the running ones.

    With mu and sigma = sqrt(var + eps) of the batch and the running mean and
    standard deviation,

        r = clip(sigma / running_std, 1 / r_max, r_max)
        d = clip((mu - running_mean) / running_std, -d_max, d_max)
        y = weight ((x - mu) / sigma r + d) + bias

    and r and d are constants for the gradient. r_max = 1 and d_max = 0 is
    BN. In evaluation y = weight (x - running_mean) / running_std + bias.

    Args:
        running: mean and standard deviation (C,).
        eps: added to the batch's variance, inside the root.
        r_max, d_max: numbers, or () tensors.
        evaluates: normalize with the running statistics alone.
        process_group: the batch is that of all its processes.
    """

    def __init__(
        self,
        running: tuple[Tensor, Tensor],
        eps: float = 1e-5,
        r_max: Limit = 1.5,
        d_max: Limit = 0.5,
        *,
        evaluates: bool = False,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.running = running
        self.eps = eps
        self.r_max, self.d_max = r_max, d_max
        self.evaluates = evaluates
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            weight, bias: (C,) or None.

        Returns:
            centre, scale, bias; and, where the batch is pooled, what
            :func:`.statistics.batch_extra` makes of its mean and variance.
        """
        weight = torch.ones_like(m[:1]) if weight is None else weight
        bias = torch.zeros_like(m[:1]) if bias is None else bias
        mean, std = statistics.running(m, v, *self.running)
        # at least sqrt(eps) in any training, but a file may hold zeros
        std = std.clamp(min=self.eps)
        if self.evaluates:
            return mean, weight / std, bias
        mu, var, count = statistics.batch_and_count(
            m, v, size, self.process_group
        )
        sigma = (var + self.eps).sqrt()
        # detached one by one: no_grad() stops no forward-mode derivatives
        r_max = torch.as_tensor(self.r_max, dtype=m.dtype, device=m.device)
        d_max = torch.as_tensor(self.d_max, dtype=m.dtype, device=m.device)
        r = (sigma / std).clamp(1 / r_max, r_max).detach()
        d = ((mu - mean) / std).clamp(-d_max, d_max).detach()
        extra = statistics.batch_extra(mu, var, count)
        return mu, weight * r / sigma, weight * d + bias, extra


def scheduled(
    step: Tensor, start: int, end: int, first: float, last: float
) -> Tensor:
    """A limit that moves linearly from ``first`` to ``last``.

    Args:
        step: () training steps done, of any dtype.
        start, end: the steps at which it begins to move and arrives.

    Returns:
        () float64, or float32 where the device has no float64. Nothing is
        read back, which would stall a GPU.
    """
    dtype = torch.float32 if step.device.type == 'mps' else torch.float64
    done = ((step.to(dtype) - start) / max(end - start, 1)).clamp(0, 1)
    return first + (last - first) * done
