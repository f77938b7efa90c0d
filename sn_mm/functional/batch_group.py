# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Batch Group Normalization.

Zhou, Sun, Li, et al., "Batch Group Normalization", arXiv 2012.02782. Groups
consist of whole channels here.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from . import statistics
from .statistics import Moments
from .traced import inverse_root


class BatchGroupRule:
    """Moments of groups of channels, over all samples of the batch.

    Args:
        num_groups: of consecutive channels; C of them are BN.
        eps: added to the variance, inside the root.
        running: mean and variance (C,) of channels, which are pooled in the
            batch's place.
        process_group: the batch is that of all its processes.
    """

    def __init__(
        self,
        num_groups: int,
        eps: float = 1e-5,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.num_groups, self.eps, self.running = num_groups, eps, running
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
            centre, scale, bias; and, of the channels' moments in the batch,
            what :func:`.statistics.batch_extra` makes of them.
        """
        mean, var, extras = statistics.batch_or_running(
            m, v, size, self.running, self.process_group
        )
        mean, var = statistics.group(mean, var, self.num_groups)
        scale = inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        return (
            mean,
            scale,
            torch.zeros_like(mean) if bias is None else bias,
            *(extras),
        )
