# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Instance Enhancement Batch Normalization.

Liang, Huang, Liang, Yang, "Instance Enhancement Batch Normalization: an
Adaptive Regulator of Batch Noise", AAAI 2020.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from . import statistics
from .statistics import Moments
from .traced import inverse_root


class InstanceEnhancementRule:
    """BN whose scale of each sample depends on the sample's mean m.

    weight becomes weight sigmoid(weight_readjust m + bias_readjust).

    Args:
        eps: added to the batch's variance, inside the root.
        running: mean and variance (C,) in place of the batch's.
        process_group: the batch is that of all its processes.
    """

    def __init__(
        self,
        eps: float = 1e-5,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.eps, self.running = eps, running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        weight_readjust: Tensor,
        bias_readjust: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            weight_readjust, bias_readjust: (C,).
            weight, bias: (C,) or None.

        Returns:
            centre, scale, bias; and, of the batch's moments, what
            :func:`.statistics.batch_extra` makes of them.
        """
        mean, var, extras = statistics.batch_or_running(
            m, v, size, self.running, self.process_group
        )
        scale = (weight_readjust * m + bias_readjust).sigmoid()
        scale = scale * inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        return (
            mean,
            scale,
            m.new_zeros(1, 1) if bias is None else bias,
            *extras,
        )
