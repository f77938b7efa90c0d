# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Averages of batch moments: the statistics that BN is tested with.

"Switchable Normalization for Learning-to-Normalize Deep Representation",
TPAMI 2019, Sec. 3.1, 'Inference': means and variances of mini-batches,
averaged, in place of the moving average.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sn_mm.distributed import merge_moments


class MomentAverage:
    """Running averages of batch means and batch variances, in float64.

    Every batch has the same weight, whatever its size. Centred (Welford), so
    a large mean costs no digits.

    Args:
        channels: C.
        device: where the sums are kept; the CPU where it has no float64.

    Attributes:
        count: () number of batches.
        mean, var: (C,) averages of the batches' moments.
        between: (C,) biased variance of the batches' means.
    """

    def __init__(
        self, channels: int, device: torch.device | str | None = None
    ) -> None:
        if device is not None and torch.device(device).type == 'mps':
            device = 'cpu'
        zeros = torch.zeros(3, channels, dtype=torch.double, device=device)
        self.mean, self.var, self.between = zeros.unbind(0)
        self.count = torch.zeros((), dtype=torch.double, device=device)

    def update(self, mean: Tensor, var: Tensor, seen: Tensor | int = 1):
        """Take in the moments (C,) of a batch; ``seen`` 0 takes nothing.

        A tensor ``seen`` is not read back: that would stall a GPU.
        """
        mean, var = mean.to(self.mean), var.to(self.var)
        self.count += seen
        step = seen / self.count.clamp(min=1)
        before = mean - self.mean
        self.mean += step * before
        self.var += step * (var - self.var)
        # of n - 1 batches' means to that of n: both deviations' product
        self.between += step * (before * (mean - self.mean) - self.between)

    def flat(self) -> Tensor:
        """(1 + 3 C,), for :func:`merge_averages`: one tensor to gather."""
        return torch.cat(
            [self.count.view(1), self.mean, self.var, self.between]
        )


def merge_averages(
    parts: Sequence[Tensor], second_moment: bool = False
) -> tuple[float, Tensor, Tensor]:
    """Averages over the batches of all parts.

    Args:
        parts: each part's :meth:`MomentAverage.flat`; those of count 0 do
            not matter.
        second_moment: the variance is E[x^2] - E[x]^2 of averaged second
            moments, as in the public code: it then contains the variance
            between the batches' means. Default: the paper's, the average
            of the batches' variances.

    Returns:
        Number of batches, mean (C,) and var (C,), float64.
    """
    stacked = torch.stack(list(parts))
    counts, rest = stacked[:, :1], stacked[:, 1:]
    means, variances, between = rest.chunk(3, dim=1)
    if second_moment:
        mean, var, count = merge_moments(means, variances + between, counts)
    else:
        mean, _, count = merge_moments(means, variances, counts)
        var = (counts / count.clamp(min=1) * variances).sum(0)
    return float(count), mean, var
