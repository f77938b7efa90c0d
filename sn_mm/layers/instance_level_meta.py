# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Instance-Level Meta Normalization layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sn_mm.functional.instance_level_meta import NORMS, InstanceLevelMetaRule
from sn_mm.utils import check_count

from .arguments import check_divides, check_names
from .base import RowNorm
from .registration import register_norm


@register_norm('ILM')
class ILM(RowNorm):
    r"""Instance-Level Meta Normalization over (N, C, \*spatial).

    IN, LN or GN whose affine pair follows from a sample's own moments: see
    :mod:`sn_mm.functional.instance_level_meta`. Weights of the public code
    load by name. Scales are about 1.5 at the start.

    Args:
        num_features: C.
        eps: added to the variance, inside the root.
        affine: learn ``weight`` and ``bias``.
        norm: 'gn', 'in' or 'ln'.
        num_groups: of GN.
        key_group_size: channels of which the moments are taken together; a
            divisor of C.
        reduction: the embedding has one unit for so many key groups, or 2
            where there are no more than so many ('gn': fewer).
        device, dtype: of parameters.

    Attributes:
        weight, bias: (C,), what is learned beside, initially 1 and 0.
        embed_weight: (E, K), of K key groups.
        scale_weight, shift_weight: (K, E).

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    settings = ('eps', 'norm', 'num_groups', 'key_group_size')
    options = dict(norm='gn', key_group_size=16, reduction=16)
    public_names = {
        'weight_bias': 'weight',
        'bias_bias': 'bias',
        'fc_embed.0.weight': 'embed_weight',
        'fc_weight.1.weight': 'scale_weight',
        'fc_bias.1.weight': 'shift_weight',
    }

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = True,
        norm: str = 'gn',
        num_groups: int = 32,
        key_group_size: int = 16,
        reduction: int = 16,
        device=None,
        dtype=None,
    ) -> None:
        check_names('norms', (norm,), NORMS)
        check_count('reduction', reduction)
        super().__init__(
            *(num_features, eps, None, affine, False),
            device=device,
            dtype=dtype,
        )
        check_divides('key_group_size', key_group_size, num_features)
        if norm == 'gn':
            check_divides('num_groups', num_groups, num_features)
        self.norm, self.num_groups = norm, num_groups
        self.key_group_size, self.reduction = key_group_size, reduction
        like = torch.empty(0, device=device, dtype=dtype)
        for name, shape in self.shapes().items():
            self.add_parameter(name, *shape, like=like)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in a new layer, the three linear maps at random."""
        super().reset_parameters()
        for name in ('embed_weight', 'scale_weight', 'shift_weight'):
            if name in self._parameters:
                nn.init.kaiming_uniform_(self._parameters[name], a=5**0.5)

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        rule = InstanceLevelMetaRule(
            self.norm, self.eps, self.num_groups, self.key_group_size
        )
        return self.by_rule(
            *(x, rule, self.embed_weight, self.scale_weight),
            *(self.shift_weight, self.weight, self.bias),
        )

    def uses_setting(self, name: str) -> bool:
        """Whether the output depends on one of ``settings``."""
        return name != 'num_groups' or self.norm == 'gn'

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not (C,), by name."""
        keys = self.num_features // self.key_group_size
        enough = keys >= self.reduction + (self.norm != 'gn')
        units = keys // self.reduction if enough else 2
        return dict(
            embed_weight=(units, keys),
            scale_weight=(keys, units),
            shift_weight=(keys, units),
        )

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = super().extra_repr()
        if self.norm == 'gn':
            text += f', num_groups={self.num_groups}'
        return text
