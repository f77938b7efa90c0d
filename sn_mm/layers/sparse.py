# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sparse Switchable Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor

from sn_mm.functional.sparsestmax import without_entry
from sn_mm.functional.traced import is_traced
from sn_mm.kernels.layout import accumulation_dtype, cast

from .hard import one_hot
from .ratio_forms import (
    MOMENTS,
    is_choice,
    is_set,
    logits_to_sparse,
    sparse_ratios,
)
from .registration import register_norm
from .switchable import SN2d
from .sync import SyncSN


class SparseRatios:
    """Mixin: SparsestMax in place of softmax; see :class:`SSN`."""

    initial = dict(
        mean_weight=1, var_weight=1, mean_fixed=0, var_fixed=0, radius=0
    )
    _softmax = False
    _seen = None  # numbers, and the ratios that follow from them

    def __init__(self, num_features: int, *args, **kwargs) -> None:
        super().__init__(num_features, *args, **kwargs)
        flags = self.mean_weight.detach().new_zeros(self.ratio_groups)
        for moment in MOMENTS:
            self.register_buffer(f'{moment}_fixed', flags.clone())
        self.register_buffer('radius', flags.new_zeros(1))

    def ratios(self) -> dict[str, Tensor]:
        """What the layer chose, or tends to: shaped as the weights."""
        with torch.no_grad():
            return dict(zip(MOMENTS, self._both_ratios()))

    def check_state(self) -> None:
        """Raise an error that names what does not fit the settings."""
        super().check_state()
        groups = self.ratio_groups
        for name, length in (
            *((f'{moment}_fixed', groups) for moment in MOMENTS),
            ('radius', 1),
        ):
            t = getattr(self, name)
            if t.shape != (length,):
                raise ValueError(
                    f'{name} has shape {tuple(t.shape)}, but ratio_groups='
                    f'{groups} needs {(length,)}: build a new layer'
                )

    def harden_(self) -> None:
        """Fix each moment's largest ratio at 1 and the others at 0."""
        super().harden_()
        for moment in MOMENTS:
            getattr(self, f'{moment}_fixed').fill_(1)

    def _hard_weight(self, weight: Tensor) -> Tensor:
        return one_hot(weight)

    def _set_ratio(self, moment: str, ratio: Tensor) -> None:
        weight = getattr(self, f'{moment}_weight')
        weight.data.copy_(ratio)
        flag = getattr(self, f'{moment}_fixed')
        flag.copy_(is_choice(ratio).view_as(flag))

    def _ratio_weights(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.training or is_traced(x) or x.is_cuda:
            ratios = self._both_ratios()
        else:
            ratios = self._ratios_seen_before()
        if self.training:
            for moment, ratio in zip(MOMENTS, ratios):
                self._fix(moment, ratio.detach())
        single = x.numel() == x.shape[0] * x.shape[1]
        if single and 'in' in self.statistics and len(self.statistics) > 1:
            index = self.statistics.index('in')
            ratios = [without_entry(r, index) for r in ratios]
        return tuple(ratios)

    def _both_ratios(self) -> tuple[Tensor, Tensor]:
        """The ratios in use, see :func:`.ratio_forms.sparse_ratios`."""
        # In one, since these are some sixty small operations; and a copy,
        # because _fix writes to the parameters later on. Not in half
        # precision, which PyTorch before 2.2 does not sum up on CPUs.
        given = torch.stack([self.mean_weight, self.var_weight])
        weights = cast(given, accumulation_dtype(given.dtype))
        fixed = torch.stack([self.mean_fixed, self.var_fixed])
        ratios = sparse_ratios(weights, fixed, self.radius)
        return cast(ratios, given.dtype).unbind(0)

    def _ratios_seen_before(self) -> tuple[Tensor, Tensor]:
        """:meth:`_both_ratios`, those of the last call if nothing moved.

        Told by the numbers themselves: versions of tensors miss what is
        written through ``.data``, as averages of models do.
        """
        weights = self.mean_weight, self.var_weight
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
            return self._both_ratios()
        own = *weights, self.mean_fixed, self.var_fixed, self.radius
        numbers = [(t.dtype, t.tolist()) for t in own]
        numbers.append(torch.is_inference_mode_enabled())
        seen = self._seen  # read once: other threads may replace it
        if seen is None or seen[0] != numbers:
            self._seen = seen = numbers, self._both_ratios()
        return seen[1]

    @torch.no_grad()
    def _fix(self, moment: str, ratio: Tensor) -> None:
        """Keep a choice once it is made. No branch: that would stall a GPU."""
        flag = getattr(self, f'{moment}_fixed')
        chosen = is_choice(ratio).to(flag).view_as(flag)
        flag.copy_(torch.maximum(flag, chosen))
        self._settle(moment, ratio)

    @torch.no_grad()
    def _settle(self, moment: str, ratio: Tensor) -> None:
        """Make the weight of a choice exactly its ratio."""
        weight = getattr(self, f'{moment}_weight')
        chosen = is_set(getattr(self, f'{moment}_fixed'), weight)
        weight.copy_(torch.where(chosen, ratio, weight))

    def _take_ratios(self, state_dict, prefix: str) -> None:
        logits_to_sparse(state_dict, prefix)

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        for moment, ratio in self.ratios().items():
            self._settle(moment, ratio)
        super()._save_to_state_dict(destination, prefix, keep_vars)


@register_norm('SSN', 'SSN2d')
class SSN(SparseRatios, SN2d):
    """Sparse Switchable Normalization over (N, C, H, W).

    "SSN: Learning Sparse Switchable Normalization via SparsestMax", CVPR
    2019. SN whose ratios are SparsestMax of ``mean_weight`` and
    ``var_weight`` instead of softmax. ``radius`` grows from 0 to 1 during
    training, and from sqrt((K - 1) / K) on (0.816 for three statistics)
    every layer uses one normalizer alone. A choice once made in training
    stays, and one-hot, under any optimizer and in any average: the flag is
    set, and every forward makes the weight the one-hot ratio again. (An
    optimizer that moves weights by more than a half in one step, as none at
    a rate of 0.1 was seen to do, could make it another choice.)

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


@register_norm('SyncSSN')
class SyncSSN(SparseRatios, SyncSN):
    """:class:`SSN` whose BN statistics span a process group.

    Arguments as for :class:`SyncSN`.
    """
