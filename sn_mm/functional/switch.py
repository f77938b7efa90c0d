# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The mixing of Switchable Normalization.

Luo et al., "Differentiable Learning-to-Normalize via Switchable
Normalization", ICLR 2019, and "Switchable Normalization for
Learning-to-Normalize Deep Neural Networks", TPAMI 2019: Eq. 3 to 5 and,
backward, Eq. 6 to 14.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .mixing import Mixing, State
from .statistics import Instance, Statistic


class SwitchMixing(Mixing):
    """Convex mixtures of several normalizers' means and variances.

    mu = sum_k softmax(mean_weight)_k mu_k and var = sum_k
    softmax(var_weight)_k var_k (Eq. 3 and 5).

    Args:
        statistics: what to mix, in the order of the ratios.
        unbiased: let the instance variance divide by S - 1; the other
            moments are then derived from that, as in the public code.

    Parameters of :meth:`mix` are the ratio logits ``mean_weight`` and
    ``var_weight``, (K,) or (G, K): one row for each of G channel groups.

    A row of one position (S = 1) has no instance variance: its instance
    statistic carries no information and is dropped, the other ratios being
    renormalized.
    """

    softmax = True  # whether ratios are made of the parameters so

    def __init__(
        self, statistics: Sequence[Statistic], unbiased: bool = False
    ) -> None:
        self.statistics = statistics
        self.unbiased = unbiased
        self.synchronized = any(s.synchronized for s in statistics)

    # -- forward ---------------------------------------------------------
    def collect(self, moments: Tensor, size: int) -> State:
        """The pooled moments of every statistic that pools, in order."""
        rows = self._spread(moments, size)
        return tuple(
            s.pool(rows, size)
            for s in self.statistics
            if not isinstance(s, Instance)
        )

    def mix(
        self, moments: Tensor, size: int, state: State, *params: Tensor
    ) -> Tensor:
        """See the base class."""
        rows = self._spread(moments, size)
        ratios = _columns(self.ratios(params, size, rows.dtype), rows)
        terms = [
            (r, s.expand(pooled, rows), s.small)
            for r, s, pooled in zip(ratios, self.statistics, self.pools(state))
        ]
        # Adding (2, N, 1) to (2, 1, C) first saves a full-sized operation.
        # (torch.compile of 2.1 breaks the graph at a sort.)
        terms = [t for t in terms if t[2]] + [t for t in terms if not t[2]]
        mixed = terms[0][0] * terms[0][1]
        for r, values, _ in terms[1:]:
            mixed = torch.addcmul(mixed, r, values)
        return mixed

    def pools(self, state: State) -> list[Tensor | None]:
        """What :meth:`collect` returned, None for what does not pool."""
        rest = iter(state)
        return [
            None if isinstance(s, Instance) else next(rest)
            for s in self.statistics
        ]

    def _spread(self, moments: Tensor, size: int) -> Tensor:
        """Moments with the instance variance that was asked for."""
        factor = self.spread(size)
        if factor == 1:
            return moments
        mean, var = moments.unbind(0)
        return torch.stack([mean, var * factor])

    def spread(self, size: int) -> float:
        """From the biased instance variance to the one asked for."""
        return size / (size - 1) if self.unbiased and size > 1 else 1.0

    def ratios(
        self, params: tuple[Tensor, ...], size: int, dtype: torch.dtype
    ) -> Tensor:
        """Softmax over the statistics, without 'in' where S = 1.

        (2, K) or (2, G, K), in a dtype like the moments': ratios that add up
        to 1 in float32 only spoil the gradients where means are large.
        """
        logits = torch.stack(params).to(dtype)
        if size == 1 and len(self.statistics) > 1:
            for k, s in enumerate(self.statistics):
                if isinstance(s, Instance):
                    logits[..., k] = float('-inf')
        return logits.softmax(-1)

    # -- backward --------------------------------------------------------
    def logit_grad(self, ratios: Tensor, d_ratios: Tensor) -> Tensor:
        """Through :meth:`ratios`: the softmax."""
        return ratios * (d_ratios - (ratios * d_ratios).sum(-1, keepdim=True))

    def backward(
        self,
        moments: Tensor,
        size: int,
        state: State,
        params: tuple[Tensor, ...],
        d_mixed: Tensor,
    ) -> tuple[Tensor, ...]:
        """(d_moments, d_mean_weight, d_var_weight): Eq. 6 to 14."""
        rows = self._spread(moments, size)
        ratios = self.ratios(params, size, rows.dtype)
        d_rows = shares = pulls = torch.zeros_like(rows[:, :1, :1])
        d_ratios = []
        for r, s, pooled in zip(
            _columns(ratios, rows), self.statistics, self.pools(state)
        ):
            values = s.expand(pooled, rows)
            d_ratios.append(_ratio_grad(s, values, d_mixed, ratios))
            if isinstance(s, Instance):
                d_rows = r * d_mixed
            elif not s.constant:
                # Where the ratios are the same for all channels, sum first:
                # fewer numbers to multiply.
                sums = (
                    r * s.sum(d_mixed)
                    if r.shape[2] == 1
                    else s.sum(r * d_mixed)
                )
                share = s.expand(s.average(sums, pooled, rows, size), rows)
                shares = shares + share
                pulls = pulls + share[1:] * values[:1]
        d_rows = (d_rows + shares).expand_as(rows).contiguous()
        # var_k holds mean((m - mu_k)^2), which pulls on m as well.
        d_rows[0] += 2 * (rows[0] * shares[1] - pulls[0])
        d_logits = self.logit_grad(ratios, torch.stack(d_ratios, dim=-1))
        return (
            self._spread(d_rows, size),
            *(d.to(p.dtype) for d, p in zip(d_logits, params)),
        )


def _columns(ratios: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    """K factors (2, 1, 1) or (2, 1, C) from ratios (2, K) or (2, G, K)."""
    if ratios.dim() == 2:
        ratios = ratios.unsqueeze(1)
    else:
        repeats = rows.shape[2] // ratios.shape[1]
        ratios = ratios.repeat_interleave(repeats, dim=1)
    return ratios.unsqueeze(1).unbind(-1)


def _ratio_grad(
    s: Statistic, values: Tensor, d_mixed: Tensor, ratios: Tensor
) -> Tensor:
    """Gradient of one statistic's ratios, (2,) or (2, G)."""
    if ratios.dim() == 3:
        products = (d_mixed * values).sum(1)
        return products.view(2, ratios.shape[1], -1).sum(-1)
    if values.shape != d_mixed.shape:
        d_mixed = s.sum(d_mixed)
    return (d_mixed * values).sum((1, 2))
