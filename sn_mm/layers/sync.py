# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Synchronized Switchable Normalization."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from torch import Tensor

from sn_mm.functional.distributed import SyncBatch, world_size
from sn_mm.functional.statistics import Batch

from .switchable import SN2d


@MODELS.register_module()
class SyncSN(SN2d):
    """SN whose BN statistics span the processes of a group.

    "Switchable Normalization for Learning-to-Normalize Deep Neural
    Networks", TPAMI 2019, Eq. 15 to 25. One collective in forward, one in
    backward; none in evaluation, with ``bn_eval``, without 'bn', or where
    the group has one process or torch.distributed is not initialized: it is
    then :class:`SN2d`. Processes may hold batches of different sizes and
    shapes, empty ones included, but all must call the layer.

    Args:
        num_features: C.
        process_group: the group; None is the default group.
        others: as for :class:`SN2d`. State dicts are interchangeable.
    """

    def __init__(
        self,
        num_features: int,
        *args,
        process_group: dist.ProcessGroup | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_features, *args, **kwargs)
        self.process_group = process_group

    def _syncs(self) -> bool:
        return (
            self.training
            and self._uses_batch()
            and 'bn' in self.statistics
            and world_size(self.process_group) > 1
        )

    def _batch_statistic(self) -> Batch:
        if self._syncs():
            return SyncBatch(self.process_group)
        return super()._batch_statistic()

    @torch.no_grad()
    def _track(
        self, x: Tensor, mean: Tensor, var: Tensor, count: Tensor | None = None
    ) -> None:
        if count is None:
            return super()._track(x, mean, var)
        # No branch on count: reading it would stall a GPU.
        seen = count[0] > 0
        self.num_batches_tracked.add_(seen)
        step = self.momentum
        if step is None:
            step = 1 / self.num_batches_tracked.clamp(min=1)
        step = (seen * step).to(self.running_mean)
        self.running_mean.lerp_(mean.to(self.running_mean), step)
        self.running_var.lerp_(var.to(self.running_var), step)
