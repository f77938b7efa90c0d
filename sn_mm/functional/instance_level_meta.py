# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Instance-Level Meta Normalization (ILM-Norm).

Jia, Chen, Chen, "Instance-Level Meta Normalization", CVPR 2019
(arXiv 1904.03516).
"""

from __future__ import annotations

from torch import Tensor

from . import statistics
from .traced import inverse_root

NORMS = ('in', 'ln', 'gn')


class InstanceLevelMetaRule:
    """IN, LN or GN whose affine pair follows from a sample's own moments.

    Of key groups of channels, moments (unbiased variances) go through an
    embedding that both branches share,

        weight + sigmoid(scale_weight relu(embed_weight key variances)),
        bias + tanh(shift_weight relu(embed_weight key means)),

    the same within a key group. The variance that normalizes is unbiased.

    Args:
        norm: 'in', 'ln' or 'gn'.
        eps: added to the variance, inside the root.
        num_groups: of 'gn'.
        key_group_size: channels of a key group.
    """

    def __init__(
        self,
        norm: str = 'gn',
        eps: float = 1e-5,
        num_groups: int = 32,
        key_group_size: int = 16,
    ) -> None:
        self.norm, self.eps = norm, eps
        self.num_groups, self.key_group_size = num_groups, key_group_size

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        embed_weight: Tensor,
        scale_weight: Tensor,
        shift_weight: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            embed_weight: (E, K), of K key groups.
            scale_weight, shift_weight: (K, E).
            weight, bias: (C,) or None, for 1 and 0.
        """
        channels = m.shape[1]
        groups = dict(ln=1, gn=self.num_groups)
        groups['in'] = channels
        keys = channels // self.key_group_size
        mean, var = self._unbiased(m, v, size, groups[self.norm])
        key_mean, key_var = (
            t[:, :: self.key_group_size]
            for t in self._unbiased(m, v, size, keys)
        )
        embed, scale, shift = (
            t.to(m.dtype).T for t in (embed_weight, scale_weight, shift_weight)
        )
        gain = ((key_var @ embed).relu() @ scale).sigmoid()
        offset = ((key_mean @ embed).relu() @ shift).tanh()
        gain, offset = (
            t.repeat_interleave(self.key_group_size, dim=1)
            for t in (gain, offset)
        )
        gain = gain + (1 if weight is None else weight)
        if bias is not None:
            offset = offset + bias
        return mean, gain * inverse_root(var + self.eps), offset

    @staticmethod
    def _unbiased(m: Tensor, v: Tensor, size: int, groups: int):
        """Moments of channel groups, (N, C), the variance by n - 1."""
        mean, var = statistics.group(m, v, groups)
        count = size * (m.shape[1] // groups)
        return mean, var * (count / max(count - 1, 1))
