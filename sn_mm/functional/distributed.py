# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN's mixing with BN statistics over the processes of a group.

"Switchable Normalization for Learning-to-Normalize Deep Neural Networks",
TPAMI 2019, SyncSN: Eq. 15 to 25. One collective forward, one backward.
"""
from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .mixing import State
from .switch import SwitchMixing


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Processes in the group; 1 where no process group is initialized."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


class SyncSwitchMixing(SwitchMixing):
    """:class:`SwitchMixing` whose BN statistics span a process group.

    Every process may hold another number of samples, none included, and
    another spatial size. The statistics are those of all positions of all
    samples, merged from centred moments.

    Args:
        group: the process group; None is the default group.
        others: as for :class:`SwitchMixing`.
    """

    def __init__(self, statistics: tuple[str, ...], num_groups: int = 32,
                 unbiased: bool = False,
                 running: tuple[Tensor, Tensor] | None = None,
                 group: dist.ProcessGroup | None = None) -> None:
        super().__init__(statistics, num_groups, unbiased, running)
        self.group = group

    def _batch_moments(self, m: Tensor, v: Tensor, size: int) -> State:
        """(mean (C,), var (C,), count ()) over the whole group."""
        local = super()._batch_moments(m, v, size)
        count = m.new_full((1, ), m.shape[0] * size)
        gathered = all_gather(torch.cat([*local, count]), self.group)
        means, variances, counts = gathered.split(
            [m.shape[1], m.shape[1], 1], dim=1)
        return merge_moments(means, variances, counts)

    def _batch_grads(self, d_mean: Tensor, d_var: Tensor, m: Tensor,
                     size: int, state: State) -> tuple[Tensor, Tensor]:
        """The whole group's gradients, divided over its positions."""
        both = torch.stack([d_mean, d_var])
        dist.all_reduce(both, group=self.group)
        share = size / state[2].clamp(min=1)
        return tuple(both * share)


def all_gather(t: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Every process's t (L,), as rows (world size, L) in rank order.

    A gather and no sum: all processes then merge the same numbers in the
    same order and get the same bits.
    """
    out = t.new_empty(world_size(group), t.numel())
    dist.all_gather(list(out.unbind(0)), t.contiguous(), group=group)
    return out


def merge_moments(means: Tensor, variances: Tensor,
                  counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the union of P parts from each part's own.

    Centred (parallel variance), so a large mean costs no digits. Parts of
    count 0 do not matter; if all are, the moments are 0.

    Args:
        means, variances: (P, C), biased.
        counts: (P, 1) numbers of elements.

    Returns:
        mean (C,), var (C,), count ().
    """
    total = counts.sum()
    shares = counts / total.clamp(min=1)
    mean = (shares * means).sum(0)
    var = (shares * (variances + (means - mean).square())).sum(0)
    return mean, var, total
