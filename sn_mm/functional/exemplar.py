# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Exemplar Normalization: each sample has ratios of its own.

Zhang et al., "Exemplar Normalization for Learning Deep Representation", CVPR
2020 (arXiv 2003.08761). After the paper, unverified: the paper's attention is
not known in detail. Here it is the one of squeeze and excitation, a hidden
layer on the average over positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from . import statistics as pools
from .statistics import Moments
from .traced import inverse_root


class ExemplarRule:
    r"""Several normalizers' outputs, mixed anew for every sample.

    y = sum_k a_k (weight_k (x - mean_k) / sqrt(var_k + eps) + bias_k) with
    a (N, K) = softmax(ratio_weight relu(embed_weight m) + ratio_bias), m being
    the averages over positions.

    Args:
        statistics: distinct names out of 'in', 'ln', 'bn', 'gn', in the
            order of the ratios.
        eps: added to each variance, inside the root.
        num_groups: channel groups of 'gn'.
        running: mean and variance (C,) that 'bn' takes instead of the
            batch's.
        process_group: the batch of 'bn' is that of all its processes.

    A row of one position has no instance variance: 'in' gets no share there.
    """

    def __init__(
        self,
        statistics: Sequence[str],
        eps: float = 1e-5,
        *,
        num_groups: int = 32,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.statistics = tuple(statistics)
        self.eps = eps
        self.num_groups = num_groups
        self.running = running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        embed_weight: Tensor,
        ratio_weight: Tensor,
        ratio_bias: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            embed_weight: (D, C) of the hidden layer.
            ratio_weight, ratio_bias: (K, D) and (K,) of the logits.
            weight, bias: (K, C) or None.

        Returns:
            centre, scale, bias; the ratios' mean and variance over the
            samples, (2, 1, K); and, where 'bn' pools the batch, what
            :func:`.statistics.batch_extra` makes of it.
        """
        logits = self.logits(m, embed_weight, ratio_weight, ratio_bias)
        ratios = self.softmax(logits, size)
        moments, extras = pools.several(
            *(self.statistics, m, v, size),
            num_groups=self.num_groups,
            given=self.running,
            process_group=self.process_group,
        )
        scale, shift = 0, 0
        for k, (mean, var) in enumerate(moments):
            own = inverse_root(var + self.eps)
            if weight is not None:
                own = own * weight[k].to(m.dtype)
            # about the row's own mean, where nothing cancels
            offset = own * (m - mean)
            if bias is not None:
                offset = offset + bias[k].to(m.dtype)
            share = ratios[:, k : k + 1]
            scale, shift = scale + share * own, shift + share * offset
        return m, scale, shift, ratio_extra(ratios), *extras

    @staticmethod
    def logits(
        m: Tensor,
        embed_weight: Tensor,
        ratio_weight: Tensor,
        ratio_bias: Tensor,
    ) -> Tensor:
        """(N, K), of the pooled features m (N, C)."""
        hidden = (m @ embed_weight.to(m.dtype).T).relu()
        return hidden @ ratio_weight.to(m.dtype).T + ratio_bias.to(m.dtype)

    def softmax(self, logits: Tensor, size: int) -> Tensor:
        """Ratios (N, K), without 'in' where rows have one position."""
        names = self.statistics
        if size == 1 and 'in' in names and len(names) > 1:
            own = torch.tensor([n == 'in' for n in names])
            logits = logits.masked_fill(own.to(logits.device), float('-inf'))
        return logits.softmax(1)


def ratio_extra(ratios: Tensor) -> Tensor:
    """Mean and biased variance of ratios (N, K) over samples, (2, 1, K)."""
    mean = ratios.mean(0, keepdim=True)
    var = (ratios - mean).square().mean(0, keepdim=True)
    return torch.stack([mean, var]).detach()
