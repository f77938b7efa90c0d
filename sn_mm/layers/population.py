# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Population Normalization layers."""

from __future__ import annotations

import warnings

from torch import Tensor

from sn_mm.functional import normalize_rows
from sn_mm.functional.population import PopulationRule
from sn_mm.functional.traced import is_traced

from .base import RowNorm
from .registration import register_norm


@register_norm('PN')
class PN(RowNorm):
    r"""Population Normalization over (N, C, \*spatial), of any rank.

    BN whose moments are those of the population in training, too: buffers,
    constants in backward, that batch average sets anew every so many steps
    (:class:`sn_mm.hooks.PopulationHook`, which also adds gamma decay, or
    :func:`sn_mm.update_batch_average`). See :mod:`sn_mm.functional.population`
    for the source. There is no synchronized form, since no step takes its
    batch's moments, and batch average reads those of all processes.

    State dicts and layers' names are those of BN, whose running moments are
    a first estimate of the population.

    Args:
        num_features: C.
        momentum: of no effect.
        track_running_stats: True; the population has to be kept.
        bn_eval: batch average leaves the moments alone, too.
        others: see :class:`.RowNorm`.

    Attributes:
        weight, bias: (C,).
        running_mean, running_var: (C,) buffers, the population's moments.
        num_batches_tracked: int64 scalar buffer, 0.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.

    Warns:
        UserWarning: once, if a layer trains with the moments of a new one.
    """

    _abbr_ = 'bn'
    settings = ('eps',)
    needs_hook = 'PopulationHook'

    def __init__(self, num_features: int, *args, **kwargs) -> None:
        super().__init__(num_features, *args, **kwargs)
        if not self.track_running_stats:
            raise ValueError(
                'PN normalizes with the moments that it keeps: set '
                'track_running_stats=True, or take another norm'
            )
        self._warned = False

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        if self.measures and self.training and not self.bn_eval:
            y, batch = normalize_rows(
                x, PopulationRule(self.eps), self.weight, self.bias
            )
            self.track(x, batch)
            return y
        if not is_traced(x):
            self._warn_if_new()
        y = self.if_constant_map(x)
        if y is not None:
            return y
        rule = PopulationRule(self.eps, self.inference_moments())
        return normalize_rows(x, rule, self.weight, self.bias)

    def is_new(self) -> bool:
        """Whether the moments are those of a new layer: 0 and 1."""
        return not bool(
            self.running_mean.any() | (self.running_var != 1).any()
        )

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """BN's: those of the population."""
        return True

    @property
    def takes_batch(self) -> bool:
        """Never: training, too, takes the population's."""
        return False

    def inference_moments(self) -> tuple[Tensor, Tensor]:
        """The population's."""
        return self.running_mean.detach(), self.running_var.detach()

    def _warn_if_new(self) -> None:
        if self._warned or not self.training:
            return
        self._warned = True
        if self.is_new():
            warnings.warn(
                'PN trains with the moments of a new layer, 0 and 1, and does '
                "not normalize: add dict(type='PopulationHook') to "
                'custom_hooks, or call sn_mm.update_batch_average every so '
                'many steps',
                stacklevel=4,
            )
