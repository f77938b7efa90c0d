# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Synchronized Switchable Normalization."""

from __future__ import annotations

import functools
from typing import Callable

import torch.distributed as dist
from mmengine.registry import MODELS
from torch import Tensor

from sn_mm.distributed.groups import Spec, SyncGroup
from sn_mm.functional.distributed import SyncBatch
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
    shapes, empty ones included, but all must call the layer, and call
    backward if one does.

    Args:
        num_features: C.
        process_group: a torch.distributed group that this process is in.
            Default: a group of all processes, shared by all layers and by
            nothing else.
        sync_group: the group by name, for configs: 'machine' (the processes
            of each machine) or n (groups of n consecutive ranks, n dividing
            the number of processes).
        others: as for :class:`SN2d`. State dicts are interchangeable.

    Raises:
        ValueError, TypeError: for both or an unknown group; in forward, for
            a group that this process is not in or that does not fit the
            number of processes.
    """

    def __init__(
        self,
        num_features: int,
        *args,
        process_group: dist.ProcessGroup | None = None,
        sync_group: Spec = None,
        **kwargs,
    ) -> None:
        super().__init__(num_features, *args, **kwargs)
        self._group = SyncGroup(process_group, sync_group)

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The group that was given; to set one takes back sync_group."""
        return self._group.process_group

    @process_group.setter
    def process_group(self, group: dist.ProcessGroup | None) -> None:
        self._group = SyncGroup(group)

    @property
    def sync_group(self) -> Spec:
        """The group by name; to set one takes back process_group."""
        return self._group.spec

    @sync_group.setter
    def sync_group(self, spec: Spec) -> None:
        self._group = SyncGroup(spec=spec)

    # No super() in what torch.compile sees: 2.1 cannot compile it after a
    # graph break.
    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, H, W); same shape, dtype and layout."""
        if self._active_group() is None:
            return SN2d.forward(self, x)
        return _uncompiled_forward()(self, x)

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = super().extra_repr()
        for name in ('process_group', 'sync_group'):
            value = getattr(self, name)
            if value is not None:
                text += f', {name}={value!r}'
        return text

    def _active_group(self) -> dist.ProcessGroup | None:
        """The group to synchronize with in the current mode, if any."""
        if self.training and self._uses_batch() and 'bn' in self.statistics:
            return self._group.resolve()
        return None

    def _batch_statistic(self) -> Batch:
        group = self._active_group()
        if group is None:
            return SN2d._batch_statistic(self)
        return SyncBatch(group)


@functools.cache
def _uncompiled_forward() -> Callable:
    """SN's forward, which torch.compile then leaves alone.

    Compilers cannot differentiate through a collective. Made late, since
    torch._dynamo takes seconds to import; DDP imports it anyway.
    """
    import torch._dynamo

    return torch._dynamo.disable(SN2d.forward)
