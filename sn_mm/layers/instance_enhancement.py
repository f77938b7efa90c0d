# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Instance Enhancement Batch Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor

from sn_mm.functional.instance_enhancement import InstanceEnhancementRule

from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized


@register_norm('IEBN')
class IEBN(RowNorm):
    r"""Instance Enhancement BN over (N, C, \*spatial), of any rank.

    BN whose scale is multiplied by sigmoid(weight_readjust m +
    bias_readjust), m being a sample's mean: see
    :mod:`sn_mm.functional.instance_enhancement`. Weights of BN, and of the
    public code, load by name.

    Args:
        num_features and others: see :class:`.RowNorm`.

    Attributes:
        weight, bias: (C,).
        weight_readjust, bias_readjust: (C,), initially 0 and -1.
        running_mean, running_var: (C,) buffers, biased.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    settings = ('eps',)
    initial = dict(weight_readjust=0, bias_readjust=-1)

    def __init__(self, num_features: int, *args, **kwargs) -> None:
        super().__init__(num_features, *args, **kwargs)
        like = torch.empty(
            0, device=kwargs.get('device'), dtype=kwargs.get('dtype')
        )
        for name, shape in self.shapes().items():
            self.add_parameter(name, *shape, like=like)
        self.reset_parameters()

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        rule = InstanceEnhancementRule(
            self.eps, self.running_moments(), self.resolved_group()
        )
        return self.by_rule(
            *(x, rule, self.weight_readjust, self.bias_readjust),
            *(self.weight, self.bias),
        )

    @property
    def uses_batch_statistics(self) -> bool:
        """Always."""
        return True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not those of a BN."""
        channels = self.num_features
        return dict(weight_readjust=(channels,), bias_readjust=(channels,))


@register_norm('SyncIEBN')
class SyncIEBN(Synchronized, IEBN):
    """:class:`IEBN` whose batch is that of the processes of a group.

    Arguments: :class:`.Synchronized` and :class:`IEBN`.
    """
