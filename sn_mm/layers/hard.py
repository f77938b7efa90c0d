# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Hard ratios: one statistic for the mean, one for the variance, for good.

"Switchable Normalization for Learning-to-Normalize Deep Representation",
TPAMI 2019, Sec. 4.1.4, Table III and Table XI (rows 6 and 7).
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

RATIO_PARAMETERS = ('mean_weight', 'var_weight')
# exp(-1e4) is 0 in every dtype, and the value fits float16. Unlike -inf it
# survives what moves weights: averaging, decay, differences.
NEVER = -1e4


def hard_logits(weight: Tensor) -> Tensor:
    """Logits whose softmax is exactly one-hot, at the largest of ``weight``.

    Their gradient through the softmax is exactly 0, so that they stay what
    they are in a layer that still learns its ratios.

    Args:
        weight: (..., K) logits; of equal ones the first is taken.
    """
    best = weight.argmax(-1, keepdim=True)
    return torch.full_like(weight, NEVER).scatter_(-1, best, 0)


def one_hot(weight: Tensor) -> Tensor:
    """1 at the largest of ``weight`` (..., K), 0 elsewhere."""
    best = weight.argmax(-1, keepdim=True)
    return torch.zeros_like(weight).scatter_(-1, best, 1)


class HardRatios:
    """Mixin: what changes when ratios are fixed and one-hot.

    The ratios are buffers then, under the names of the parameters: state
    dicts are those of an ordinary layer, but nothing trains, decays or
    averages them, whatever is done to ``requires_grad``.
    """

    hard_ratios = False
    # indices of the statistics in use; None while any of them may be
    _choice = None

    @torch.no_grad()
    def harden_(self) -> None:
        """Fix each moment's largest ratio at 1 and the others at 0."""
        chosen = set()
        for name in RATIO_PARAMETERS:
            weight = getattr(self, name)
            hard = self._hard_weight(weight.detach())
            self._fix_ratio(name, hard)
            chosen.update(hard.argmax(-1).flatten().tolist())
        self._choice = tuple(sorted(chosen))
        self.hard_ratios = True

    def choices(self) -> dict[str, tuple[str, ...]] | None:
        """The statistics that mean and variance use alone.

        Returns:
            ``dict(mean=names, var=names)`` with one name for each of the
            ratio groups; None unless all ratios are one-hot.
        """
        found = {}
        for moment, ratios in self.ratios().items():
            if not bool((ratios.amax(-1) == 1).all()):
                return None
            best = ratios.argmax(-1).flatten().tolist()
            found[moment] = tuple(self.statistics[i] for i in best)
        return found

    def _hard_weight(self, weight: Tensor) -> Tensor:
        """One-hot ratios, in the form that the layer keeps ratios in."""
        return hard_logits(weight)

    def _fix_ratio(self, name: str, value: Tensor) -> None:
        if name in self._parameters:
            del self._parameters[name]
            self.register_buffer(name, value)
        else:
            getattr(self, name).copy_(value)

    def _await_choice(self) -> None:
        """Ratios as buffers, to be chosen when weights are loaded."""
        for name in RATIO_PARAMETERS:
            self._fix_ratio(name, getattr(self, name).detach())
        self.hard_ratios = True

    def choose_(self) -> None:
        """Choose by loaded ratios, if they are those of a training.

        Ratios that are all equal are a new layer's: whoever saved it had not
        chosen, and computed with equal shares.
        """
        weights = [getattr(self, name) for name in RATIO_PARAMETERS]
        several = weights[0].shape[-1] > 1
        if several and all(bool((w == w[..., :1]).all()) for w in weights):
            self._choice = None
        else:
            self.harden_()

    def reset_parameters(self) -> None:
        """As a new layer: no choice made."""
        self._choice = None
        super().reset_parameters()

    def _used(self, x: Tensor) -> tuple[int, ...]:
        """Indices of the statistics that x needs."""
        every = tuple(range(len(self.statistics)))
        if self._choice is None:
            if self.hard_ratios and self.training:
                self._warn_no_choice()
            return every
        instance = 'in' in [self.statistics[i] for i in self._choice]
        # a single position has no instance statistic: others stand in
        if instance and math.prod(x.shape[2:]) == 1:
            return every
        return self._choice

    def _warn_no_choice(self) -> None:
        warnings.warn(
            'hard_ratios=True, but no ratios have been loaded: all statistics '
            'have equal shares. Set load_from to a checkpoint that was '
            'trained with SN, hardened or not (tools/harden.py)',
            stacklevel=4,
        )


def pick_ratios(weight: Tensor, indices: tuple[int, ...]) -> Tensor:
    """Some of the ratios (..., K), without an index tensor to move."""
    if len(indices) == weight.shape[-1]:
        return weight
    return torch.stack([weight[..., i] for i in indices], -1)
