# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Synchronized layers: BN statistics over the processes of a group."""

from __future__ import annotations

import functools
from typing import Callable

import torch.distributed as dist
from torch import Tensor

from sn_mm.distributed.groups import Spec, SyncGroup

from .base import RowNorm
from .registration import register_norm
from .script import called_from_script
from .switchable import SN1d, SN2d, SN3d


class Synchronized:
    """Mixin: a :class:`RowNorm` whose batch is that of several processes.

    Args:
        process_group: a torch.distributed group that this process is in.
            Default: a group of all processes, shared by all layers and by
            nothing else.
        sync_group: the group by name, for configs: 'machine' (the processes
            of each machine) or n (groups of n consecutive ranks, n dividing
            the number of processes).
        args, kwargs: the layer's own.

    Raises:
        ValueError, TypeError: for both or an unknown group; in forward, for
            a group that this process is not in or that does not fit the
            number of processes.
    """

    is_synchronized = True
    # torch.jit.script would compile properties
    __jit_unused_properties__ = [
        'process_group',
        'sync_group',
        'uses_batch_statistics',
        'takes_batch',
    ]

    def __init__(
        self,
        *args,
        process_group: dist.ProcessGroup | None = None,
        sync_group: Spec = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
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
    @called_from_script
    def forward(self, input: Tensor) -> Tensor:
        """Normalize input (N, C, *spatial); same shape, dtype, layout."""
        if self.resolved_group() is None:
            return RowNorm.forward(self, input)
        return _uncompiled_forward()(self, input)

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = super().extra_repr()
        for name in ('process_group', 'sync_group'):
            value = getattr(self, name)
            if value is not None:
                text += f', {name}={value!r}'
        return text

    def resolved_group(self) -> dist.ProcessGroup | None:
        """The group to synchronize with in the current mode, if any."""
        if self.training and self.takes_batch:
            return self._group.resolve()
        return None


@functools.cache
def _uncompiled_forward() -> Callable:
    """The layer's forward, which torch.compile then leaves alone.

    Compilers cannot differentiate through a collective. Made late, since
    torch._dynamo takes seconds to import; DDP imports it anyway.
    """
    import torch._dynamo

    return torch._dynamo.disable(RowNorm.forward)


@register_norm('SyncSN', 'SyncSN2d')
class SyncSN(Synchronized, SN2d):
    """SN of any rank whose BN statistics span the processes of a group.

    "Switchable Normalization for Learning-to-Normalize Deep Representation",
    TPAMI 2019, Eq. 15 to 25. One collective in forward, one in backward; none
    in evaluation, with ``bn_eval``, without 'bn', or where the group has one
    process or torch.distributed is not initialized: it is then
    :class:`SN2d`. Processes may hold batches of different sizes and shapes,
    empty ones included, but all must call the layer, and call backward if one
    does. State dicts are interchangeable with SN's.

    Arguments, attributes and errors: :class:`Synchronized` and
    :class:`SN2d`.
    """


@register_norm('SyncSN1d')
class SyncSN1d(Synchronized, SN1d):
    """:class:`SyncSN` of input (N, C) or (N, C, L) alone."""


@register_norm('SyncSN3d')
class SyncSN3d(Synchronized, SN3d):
    """:class:`SyncSN` of input (N, C, D, H, W) alone."""
