# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The mixing of Switchable Normalization.

Luo et al., "Differentiable Learning-to-Normalize via Switchable
Normalization", ICLR 2019, and "Switchable Normalization for
Learning-to-Normalize Deep Neural Networks", TPAMI 2019: Eq. 3 to 5 and,
backward, Eq. 6 to 14.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .mixing import Mixing, State

STATISTICS = ('in', 'ln', 'bn', 'gn')


class SwitchMixing(Mixing):
    """Convex mixtures of several normalizers' means and variances.

    mu = sum_k softmax(mean_weight)_k mu_k and var = sum_k
    softmax(var_weight)_k var_k (Eq. 3 and 5). LN, BN and GN moments come
    from the instance moments (Eq. 4), in the form that does not cancel:
    var_k = mean(v) + var(m), biased, over the statistic's axes.

    Args:
        statistics: distinct names out of :data:`STATISTICS`, in the order of
            the ratios.
        num_groups: channel groups of the 'gn' statistic.
        unbiased: let the instance variance divide by S - 1; LN, BN and GN
            moments are then derived from that, as in the public code.
        running: constant BN (mean, var), each (C,), instead of the batch's.

    Parameters of :meth:`mix` are the ratio logits ``mean_weight`` and
    ``var_weight``, (K,) or (G, K): one row for each of G channel groups.

    A row of one position (S = 1) has no instance variance: its instance
    statistic carries no information and is dropped, the other ratios being
    renormalized.
    """

    def __init__(self, statistics: tuple[str, ...], num_groups: int = 32,
                 unbiased: bool = False,
                 running: tuple[Tensor, Tensor] | None = None) -> None:
        self.statistics = statistics
        self.num_groups = num_groups
        self.unbiased = unbiased
        self.running = running

    # -- forward ---------------------------------------------------------
    def collect(self, m: Tensor, v: Tensor, size: int) -> State:
        """BN's (mean, var) of the batch, each (C,); () where not used."""
        if 'bn' not in self.statistics or self.running is not None:
            return ()
        return self._batch_moments(m, self._spread(v, size), size)

    def mix(self, m: Tensor, v: Tensor, size: int, state: State,
            *params: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) mean and variance; see the base class."""
        moments = self._moments(m, self._spread(v, size), state)
        mean_ratios, var_ratios = (
            self._columns(self._ratios(p, m, size), m) for p in params)
        mu = sum(r * mu_k for r, (mu_k, _) in zip(mean_ratios, moments))
        var = sum(r * var_k for r, (_, var_k) in zip(var_ratios, moments))
        return mu, var

    def _batch_moments(self, m: Tensor, v: Tensor, size: int) -> State:
        if m.shape[0] == 0:
            return m.new_zeros(m.shape[1]), m.new_zeros(m.shape[1])
        mean, var = _pooled(m, v, 0)
        return mean.squeeze(0), var.squeeze(0)

    def _spread(self, v: Tensor, size: int) -> Tensor:
        if self.unbiased and size > 1:
            return v * (size / (size - 1))
        return v

    def _split(self, name: str, t: Tensor) -> Tensor:
        """(N, C) as (N, groups, C / groups) of the LN or GN statistic."""
        groups = 1 if name == 'ln' else self.num_groups
        return t.reshape(t.shape[0], groups, t.shape[1] // groups)

    def _moments(self, m: Tensor, v: Tensor,
                 state: State) -> list[tuple[Tensor, Tensor]]:
        """(mean, variance) of every statistic, broadcastable to (N, C)."""
        moments = []
        for name in self.statistics:
            if name == 'in':
                moments.append((m, v))
            elif name == 'bn' and self.running is not None:
                moments.append(tuple(t.to(m.dtype) for t in self.running))
            elif name == 'bn':
                moments.append(state[:2])
            else:
                mg = self._split(name, m)
                pooled = _pooled(mg, self._split(name, v), -1)
                moments.append(
                    tuple(t.expand_as(mg).reshape(m.shape) for t in pooled))
        return moments

    def _ratios(self, logits: Tensor, m: Tensor, size: int) -> Tensor:
        """Softmax over the statistics, without 'in' where S = 1.

        In m's dtype: ratios that add up to 1 in float32 only spoil the
        gradients where means are large.
        """
        logits = logits.to(m.dtype)
        if size == 1 and 'in' in self.statistics and len(self.statistics) > 1:
            logits = logits.clone()
            logits[..., self.statistics.index('in')] = float('-inf')
        return logits.softmax(-1)

    @staticmethod
    def _columns(ratios: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        """K factors that broadcast over (N, C)."""
        if ratios.dim() == 2:
            repeats = m.shape[1] // ratios.shape[0]
            ratios = ratios.repeat_interleave(repeats, dim=0)
        return ratios.unbind(-1)

    # -- backward --------------------------------------------------------
    def backward(self, m: Tensor, v: Tensor, size: int, state: State,
                 params: tuple[Tensor, ...], d_mu: Tensor,
                 d_var: Tensor) -> tuple[Tensor, ...]:
        """(d_m, d_v, d_mean_weight, d_var_weight): Eq. 6 to 14."""
        moments = self._moments(m, self._spread(v, size), state)
        d_params, shares = [], []
        for p, d, values in zip(params, (d_mu, d_var), zip(*moments)):
            ratios = self._ratios(p, m, size)
            d_params.append(_logit_grad(ratios, d, values).to(p.dtype))
            shares.append([r * d for r in self._columns(ratios, m)])
        d_m, d_v = torch.zeros_like(m), torch.zeros_like(v)
        for name, (mean, _), d_mean, d_vark in zip(
                self.statistics, moments, *shares):
            g_mean, g_var = self._through(name, m, mean, d_mean, d_vark, size,
                                          state)
            d_m += g_mean
            d_v += g_var
        return (d_m, self._spread(d_v, size), *d_params)

    def _through(self, name: str, m: Tensor, mean: Tensor, d_mean: Tensor,
                 d_var: Tensor, size: int,
                 state: State) -> tuple[Tensor, Tensor] | tuple[float, float]:
        """(d_m, d_v) through the moments of one statistic."""
        if name == 'in':
            return d_mean, d_var
        if name == 'bn':
            if self.running is not None:
                return 0., 0.
            g_mean, g_var = self._batch_grads(
                d_mean.sum(0), d_var.sum(0), m, size, state)
            return g_mean + 2 * g_var * (m - mean), g_var
        split = [self._split(name, t) for t in (d_mean, d_var)]
        g_mean, g_var = (
            t.mean(-1, keepdim=True).expand_as(t).reshape(m.shape)
            for t in split)
        return g_mean + 2 * g_var * (m - mean), g_var

    def _batch_grads(self, d_mean: Tensor, d_var: Tensor, m: Tensor,
                     size: int, state: State) -> tuple[Tensor, Tensor]:
        """BN's gradients (C,), divided over the rows of the batch."""
        count = max(m.shape[0], 1)
        return d_mean / count, d_var / count


def _pooled(m: Tensor, v: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of the union of equally long rows, over ``dim`` (kept)."""
    mean = m.mean(dim, keepdim=True)
    var = (v + (m - mean).square()).mean(dim, keepdim=True)
    return mean, var


def _logit_grad(ratios: Tensor, d: Tensor,
                values: tuple[Tensor, ...]) -> Tensor:
    """Softmax backward of ratios (K,) or (G, K); d, values: (N, C)."""
    groups = ratios.shape[0] if ratios.dim() == 2 else 1
    d_ratios = torch.stack(
        [(d * t).sum(0).view(groups, -1).sum(-1) for t in values], dim=-1)
    d_ratios = d_ratios.view_as(ratios)
    return ratios * (d_ratios - (ratios * d_ratios).sum(-1, keepdim=True))
