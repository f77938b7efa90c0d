# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sparse Switchable Normalization layers."""

from __future__ import annotations

import torch
from mmengine.registry import MODELS
from torch import Tensor

from sn_mm.functional.sparsestmax import (
    RatioMixing,
    sparsestmax,
    without_entry,
)
from sn_mm.functional.statistics import Batch

from .hard import one_hot
from .switchable import SN2d
from .sync import SyncSN

_KINDS = ('mean', 'var')


class _SparseRatios:
    """SparsestMax in place of softmax; see :class:`SSN`."""

    def __init__(self, num_features: int, *args, **kwargs) -> None:
        super().__init__(num_features, *args, **kwargs)
        flags = self.mean_weight.detach().new_zeros(self.ratio_groups)
        for kind in _KINDS:
            self.register_buffer(f'{kind}_fixed', flags.clone())
        self.register_buffer('radius', flags.new_zeros(1))

    def reset_parameters(self) -> None:
        """As a new layer: no choice made, radius 0."""
        super().reset_parameters()
        for name in ('mean_fixed', 'var_fixed', 'radius'):
            if hasattr(self, name):  # not yet while the base initializes
                getattr(self, name).zero_()

    def ratios(self) -> dict[str, Tensor]:
        """What the layer chose, or tends to: shaped as the weights."""
        with torch.no_grad():
            return {kind: self._ratio(kind) for kind in _KINDS}

    def harden_(self) -> None:
        """Fix each moment's largest ratio at 1 and the others at 0."""
        super().harden_()
        for kind in _KINDS:
            getattr(self, f'{kind}_fixed').fill_(1)

    def _hard_weight(self, weight: Tensor) -> Tensor:
        return one_hot(weight)

    def _mixing(self, batch: Batch, names: tuple[str, ...]) -> RatioMixing:
        made = super()._mixing(batch, names)
        return RatioMixing(made.statistics, made.unbiased)

    def _mixing_parameters(self, x: Tensor) -> tuple[Tensor, ...]:
        ratios = [self._ratio(kind) for kind in _KINDS]
        if self.training:
            for kind, ratio in zip(_KINDS, ratios):
                self._fix(kind, ratio.detach())
        single = x.numel() == x.shape[0] * x.shape[1]
        if single and 'in' in self.statistics and len(self.statistics) > 1:
            index = self.statistics.index('in')
            ratios = [without_entry(r, index) for r in ratios]
        return tuple(ratios)

    def _ratio(self, kind: str) -> Tensor:
        # Cloned, because _fix writes to the parameter later on.
        weight = getattr(self, f'{kind}_weight').clone()
        chosen = self._chosen(kind)
        return torch.where(
            chosen, weight.detach(), sparsestmax(weight, self.radius)
        )

    def _chosen(self, kind: str) -> Tensor:
        """Flag that broadcasts over the ratios (K,) or (G, K)."""
        flag = getattr(self, f'{kind}_fixed') > 0
        return flag.unsqueeze(-1) if self.ratio_groups > 1 else flag

    @torch.no_grad()
    def _fix(self, kind: str, ratio: Tensor) -> None:
        """Keep a choice once it is made. No branch: that would stall a GPU."""
        flag = getattr(self, f'{kind}_fixed')
        one_hot = (ratio.amax(-1) - ratio.amin(-1) >= 1).to(flag)
        if ratio.shape[-1] == 1:  # a single statistic is no choice
            one_hot = torch.ones_like(flag)
        flag.copy_(torch.maximum(flag, one_hot.view_as(flag)))
        weight = getattr(self, f'{kind}_weight')
        weight.copy_(torch.where(self._chosen(kind), ratio, weight))


@MODELS.register_module(name=['SSN', 'SSN2d'])
class SSN(_SparseRatios, SN2d):
    """Sparse Switchable Normalization over (N, C, H, W).

    "SSN: Learning Sparse Switchable Normalization via SparsestMax", CVPR
    2019. SN whose ratios are SparsestMax of ``mean_weight`` and
    ``var_weight`` instead of softmax. ``radius`` grows from 0 to 1 during
    training, and from sqrt((K - 1) / K) on (0.816 for three statistics)
    every layer uses one normalizer alone. A choice once made in training
    stays: the flag is set, and the weight becomes the one-hot ratio.

    Args:
        num_features and others: as for :class:`SN2d`.

    Attributes:
        mean_weight, var_weight: what SparsestMax is taken of or, where
            fixed, the one-hot ratios themselves, without gradient.
        mean_fixed, var_fixed: (G,) flags, 1 where the choice is made; G is
            1 without ``ratio_groups``.
        radius: (1,) buffer, used in evaluation too. Public evaluation code
            before August 2019 took 0 instead, which matters only where
            ratios are not fixed.
        others: as of :class:`SN2d`.
    """


@MODELS.register_module()
class SyncSSN(_SparseRatios, SyncSN):
    """:class:`SSN` whose BN statistics span a process group.

    Arguments as for :class:`SyncSN`.
    """
