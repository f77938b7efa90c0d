# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""BN's statistics over the processes of a group.

"Switchable Normalization for Learning-to-Normalize Deep Neural Networks",
TPAMI 2019, SyncSN: Eq. 15 to 25. One collective forward, one backward.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sn_mm.distributed.groups import world_size

from .statistics import Batch

# gloo has all_gather_into_tensor in newer versions of torch only
_WITHOUT_FLAT_GATHER = ('gloo', 'mpi', 'undefined')


class SyncBatch(Batch):
    """BN's statistic over all positions of a whole process group.

    Every process may hold another number of samples, none included, and
    another spatial size. Merged from centred moments. Pooled: (3, 1, C), the
    third being the number of positions.

    Args:
        group: the process group; None is the default group.
    """

    synchronized = True

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    def pool(self, rows: Tensor, size: int) -> Tensor:
        local = super().pool(rows, size)
        return self.complete(local, rows.shape[1] * size)

    def complete(self, pooled: Tensor, count: int) -> Tensor:
        channels = pooled.shape[2]
        local = torch.cat([pooled.flatten(), pooled.new_full((1,), count)])
        parts = all_gather(local, self.group)
        means, variances, counts = parts.split([channels, channels, 1], 1)
        mean, var, total = merge_moments(means, variances, counts)
        return torch.stack([mean, var, total.expand_as(mean)]).unsqueeze(1)

    def expand(self, pooled: Tensor, rows: Tensor) -> Tensor:
        return pooled[:2]

    def average(self, sums, pooled, rows, size) -> Tensor:
        sums = sums.contiguous()
        dist.all_reduce(sums, group=self.group)
        return sums * (size / pooled[2:].clamp(min=1))


def all_gather(t: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Every process's t (L,), as rows (world size, L) in rank order.

    A gather and no sum: all processes then merge the same numbers in the
    same order and get the same bits.
    """
    out = t.new_empty(world_size(group), t.numel())
    if dist.get_backend(group) in _WITHOUT_FLAT_GATHER:
        dist.all_gather(list(out.unbind(0)), t.contiguous(), group=group)
    else:
        # NCCL would copy a list's tensors one by one.
        dist.all_gather_into_tensor(out, t.contiguous(), group=group)
    return out


def merge_moments(
    means: Tensor, variances: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
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
