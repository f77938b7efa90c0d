# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Switchable Normalization.

Luo et al., "Differentiable Learning-to-Normalize via Switchable
Normalization", ICLR 2019 (arXiv 1806.10779), and "Switchable Normalization
for Learning-to-Normalize Deep Representation", TPAMI 2019 (arXiv 1907.10473):
Eq. 3 to 5; synchronized, Eq. 15 to 25 of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from . import statistics as pools
from .traced import inverse_root

STATISTICS = ('in', 'ln', 'bn', 'gn')


class SwitchRule:
    """Convex mixtures of several normalizers' means and variances.

    mu = sum_k softmax(mean_weight)_k mu_k and var = sum_k
    softmax(var_weight)_k var_k; y = weight (x - mu) / sqrt(var + eps) + bias.

    Args:
        statistics: distinct names out of 'in', 'ln', 'bn', 'gn', in the
            order of the ratios.
        eps: added to the mixed variance, inside the root.
        unbiased: the instance variance divides by S - 1, and the others
            derive from it, as in the public code. Default: by S.
        num_groups: channel groups of 'gn'.
        softmax: whether the weights are logits; else they are the ratios.
        running: mean and variance (C,) that 'bn' takes instead of the
            batch's.
        process_group: the batch of 'bn' is that of all its processes.

    A row of one position has no instance variance: 'in' carries no
    information there and gets no ratio, the others being renormalized.
    """

    def __init__(
        self,
        statistics: Sequence[str],
        eps: float = 1e-5,
        *,
        unbiased: bool = False,
        num_groups: int = 32,
        softmax: bool = True,
        running: tuple[Tensor, Tensor] | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.statistics = tuple(statistics)
        self.eps = eps
        self.unbiased = unbiased
        self.num_groups = num_groups
        self.softmax = softmax
        self.running = running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        mean_weight: Tensor,
        var_weight: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            mean_weight, var_weight: (K,), or (G, K) for G groups of
                channels.
            weight, bias: (C,) or None.

        Returns:
            centre, scale, bias; and, where 'bn' pools the batch, what
            :func:`.statistics.batch_extra` makes of it.
        """
        v = v * self.bessel(size)
        moments, extras = pools.several(
            *(self.statistics, m, v, size),
            num_groups=self.num_groups,
            given=self.running,
            process_group=self.process_group,
        )
        mu = sum(
            r * mean
            for r, (mean, _) in zip(self.ratios(mean_weight, size, m), moments)
        )
        var = sum(
            r * var
            for r, (_, var) in zip(self.ratios(var_weight, size, m), moments)
        )
        scale = inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        if bias is None:
            bias = torch.zeros_like(m[:1])
        return mu, scale, bias, *extras

    def ratios(
        self, weight: Tensor, size: int, m: Tensor
    ) -> tuple[Tensor, ...]:
        """K factors that broadcast to m (N, C).

        In m's precision: ratios that add up to 1 in float32 only spoil the
        gradients where means are large.
        """
        weight = weight.to(m.dtype)
        if self.softmax:
            if self.drops_instance(size):
                own = [name == 'in' for name in self.statistics]
                own = torch.tensor(own, device=weight.device)
                weight = weight.masked_fill(own, float('-inf'))
            weight = weight.softmax(-1)
        if weight.dim() == 2:
            width = m.shape[1] // weight.shape[0]
            weight = weight.repeat_interleave(width, dim=0)
        return weight.unbind(-1)

    def bessel(self, size: int) -> float:
        """From the biased instance variance to the one asked for."""
        return size / (size - 1) if self.unbiased and size > 1 else 1.0

    def drops_instance(self, size: int) -> bool:
        """Whether 'in' carries no information in rows of this size."""
        several = len(self.statistics) > 1
        return several and 'in' in self.statistics and size == 1
