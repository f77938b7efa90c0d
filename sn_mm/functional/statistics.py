# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The statistics that can be mixed: how each one pools instance moments.

LN, BN and GN moments come from the instance moments (ICLR paper, Eq. 4), in
the form that does not cancel: mean(m) and mean(v) + var(m), biased, over the
rows that a statistic pools.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Statistic:
    """Pools rows (2, N, C) of means and variances; all rows, to begin with.

    Attributes:
        constant: whether the pooled values do not depend on the rows.
        small: whether they stay fewer than the rows when expanded.
        synchronized: whether they are those of several processes.
    """

    constant = False
    small = False
    synchronized = False

    def pooled_shape(self, samples: int, channels: int) -> tuple[int, int]:
        """Shape of the pooled means, and of the variances."""
        raise NotImplementedError

    def pool(self, rows: Tensor, size: int) -> Tensor:
        """Pooled moments, in a compact shape; size is S, positions a row."""
        raise NotImplementedError

    def complete(self, pooled: Tensor, count: int) -> Tensor:
        """Pooled moments from those of this process.

        Args:
            pooled: (2, *pooled_shape).
            count: positions, N * S, in this process.
        """
        return pooled

    def expand(self, pooled: Tensor, rows: Tensor) -> Tensor:
        """Pooled moments, broadcastable to (2, N, C)."""
        return pooled

    def sum(self, t: Tensor) -> Tensor:
        """Sums of t (2, N, C) over what is pooled: the adjoint of expand."""
        raise NotImplementedError

    def average(
        self, sums: Tensor, pooled: Tensor, rows: Tensor, size: int
    ) -> Tensor:
        """Each row's share in the gradient ``sums`` of the pooled mean."""
        raise NotImplementedError


class Instance(Statistic):
    """IN: every row on its own."""

    def expand(self, pooled: Tensor | None, rows: Tensor) -> Tensor:
        return rows


class Layer(Statistic):
    """LN: all rows of a sample. Pooled: (2, N, 1)."""

    small = True

    def pooled_shape(self, samples: int, channels: int) -> tuple[int, int]:
        return samples, 1

    def pool(self, rows: Tensor, size: int) -> Tensor:
        return _pooled(rows, 2)

    def sum(self, t: Tensor) -> Tensor:
        return t.sum(2, keepdim=True)

    def average(self, sums, pooled, rows, size) -> Tensor:
        return sums / rows.shape[2]


class Group(Statistic):
    """GN: a sample's rows in groups of channels. Pooled: (2, N, groups)."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def pooled_shape(self, samples: int, channels: int) -> tuple[int, int]:
        return samples, self.groups

    def pool(self, rows: Tensor, size: int) -> Tensor:
        return _pooled(self._split(rows), 3).squeeze(3)

    def expand(self, pooled: Tensor, rows: Tensor) -> Tensor:
        return pooled.repeat_interleave(rows.shape[2] // self.groups, dim=2)

    def sum(self, t: Tensor) -> Tensor:
        return self._split(t).sum(3)

    def average(self, sums, pooled, rows, size) -> Tensor:
        return sums / (rows.shape[2] // self.groups)

    def _split(self, t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:2], self.groups, t.shape[2] // self.groups)


class Batch(Statistic):
    """BN: a channel's rows in all samples. Pooled: (2, 1, C)."""

    small = True

    def pooled_shape(self, samples: int, channels: int) -> tuple[int, int]:
        return 1, channels

    def pool(self, rows: Tensor, size: int) -> Tensor:
        if rows.shape[1] == 0:
            return rows.new_zeros(2, 1, rows.shape[2])
        return _pooled(rows, 1)

    def sum(self, t: Tensor) -> Tensor:
        return t.sum(1, keepdim=True)

    def average(self, sums, pooled, rows, size) -> Tensor:
        return sums / max(rows.shape[1], 1)


class Running(Batch):
    """BN with given moments (C,) instead of the batch's."""

    constant = True

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        self.mean, self.var = mean, var

    def pool(self, rows: Tensor, size: int) -> Tensor:
        return torch.stack([self.mean, self.var]).to(rows.dtype).unsqueeze(1)


def _pooled(rows: Tensor, dim: int) -> Tensor:
    mean = rows.mean(dim, keepdim=True)
    # Not torch.var, which is slower on the CPU.
    between = (rows[0] - mean[0]).square().mean(dim - 1, keepdim=True)
    return torch.stack([mean[0], mean[1] + between])


STATISTICS = ('in', 'ln', 'bn', 'gn')


def make_statistics(
    names: Sequence[str], batch: Batch, num_groups: int
) -> list[Statistic]:
    """Statistics by name (of :data:`STATISTICS`).

    Args:
        batch: what 'bn' stands for.
        num_groups: channel groups of 'gn'.
    """
    known = {
        'in': Instance(),
        'ln': Layer(),
        'bn': batch,
        'gn': Group(num_groups),
    }
    return [known[name] for name in names]
