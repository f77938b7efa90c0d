# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Attentive Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sn_mm.functional.attentive import AttentiveRule
from sn_mm.utils import check_count

from .arguments import check_divides, check_names
from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized

_ATTENTION = 'attention_weights.attention.0.'


@register_norm('AN')
class AN(RowNorm):
    r"""Attentive Normalization over (N, C, \*spatial), of any rank.

    BN or GN with k affine pairs, mixed for every sample by an attention on
    its moments: see :mod:`sn_mm.functional.attentive`. Weights of the public
    code load by name; a BN's affine pair becomes that of all.

    Args:
        num_features: C.
        norm: 'bn' or 'gn'. GN has no running moments.
        k: number of affine pairs; the paper's are 10 or 20, by stage.
        num_groups: of GN.
        others: see :class:`.RowNorm`.

    Attributes:
        weight, bias: (k, C), initially normal about 1 and 0, deviation 0.1.
        attention_weight, attention_bias: (k, C) and (k,).
        running_mean, running_var: (C,) buffers, biased; of BN.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    settings = ('eps', 'norm', 'num_groups')
    options = dict(norm='bn', k=10, bn_eval=False)
    public_names = {
        'weight_': 'weight',
        'bias_': 'bias',
        f'{_ATTENTION}weight': 'attention_weight',
        f'{_ATTENTION}bias': 'attention_bias',
    }

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        track_running_stats: bool = True,
        norm: str = 'bn',
        k: int = 10,
        num_groups: int = 32,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        check_names('norms', (norm,), ('bn', 'gn'))
        check_count('k', k)
        super().__init__(
            *(num_features, eps, momentum, True),
            track_running_stats and norm == 'bn',
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        if norm == 'gn':
            check_divides('num_groups', num_groups, num_features)
        self.norm, self.k, self.num_groups = norm, k, num_groups
        like = torch.empty(0, device=device, dtype=dtype)
        for name, shape in self.shapes().items():
            self.add_parameter(name, *shape, like=like)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in a new layer, pairs and attention at random."""
        super().reset_parameters()
        own = self._parameters
        if 'attention_bias' in own:
            nn.init.normal_(own['weight'], 1, 0.1)
            nn.init.normal_(own['bias'], 0, 0.1)
            nn.init.kaiming_normal_(own['attention_weight'])
            nn.init.zeros_(own['attention_bias'])

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        rule = AttentiveRule(
            self.eps,
            self.num_groups if self.norm == 'gn' else None,
            self.running_moments(),
            self.resolved_group(),
        )
        return self.by_rule(
            *(x, rule, self.attention_weight, self.attention_bias),
            *(self.weight, self.bias),
        )

    @property
    def uses_batch_statistics(self) -> bool:
        """Of BN."""
        return self.norm == 'bn'

    def uses_setting(self, name: str) -> bool:
        """Whether the output depends on one of ``settings``."""
        return name != 'num_groups' or self.norm == 'gn'

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not (C,), by name."""
        rows = (self.k, self.num_features)
        return dict(
            weight=rows,
            bias=rows,
            attention_weight=rows,
            attention_bias=(self.k,),
        )

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = super().extra_repr()
        if self.norm == 'gn':
            text += f', num_groups={self.num_groups}'
        return text


@register_norm('SyncAN')
class SyncAN(Synchronized, AN):
    """:class:`AN` whose batch is that of the processes of a group.

    Arguments: :class:`.Synchronized` and :class:`AN`.
    """
