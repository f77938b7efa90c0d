# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch Group Normalization layers."""

from __future__ import annotations

from torch import Tensor

from sn_mm.functional import statistics
from sn_mm.functional.batch_group import BatchGroupRule

from .arguments import check_divides
from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized


@register_norm('BGN')
class BGN(RowNorm):
    r"""Batch Group Normalization over (N, C, \*spatial), of any rank.

    GN whose groups are pooled over the batch, too: see
    :mod:`sn_mm.functional.batch_group`. Weights of BN load by name, and are
    BN with ``num_groups=C``.

    Args:
        num_features: C.
        num_groups: of consecutive channels, a divisor of C.
        others: see :class:`.RowNorm`.

    Attributes:
        weight, bias: (C,).
        running_mean, running_var: (C,) buffers: of channels, biased; pooled
            within groups in evaluation.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    settings = ('eps', 'num_groups')

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        num_groups: int = 32,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(
            *(num_features, eps, momentum, affine, track_running_stats),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        check_divides('num_groups', num_groups, num_features)
        self.num_groups = num_groups

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        running = self.running_moments()
        y = None if running is None else self.if_constant_map(x)
        if y is not None:
            return y
        rule = BatchGroupRule(
            *(self.num_groups, self.eps, running), self.resolved_group()
        )
        return self.by_rule(x, rule, self.weight, self.bias)

    @property
    def uses_batch_statistics(self) -> bool:
        """Always."""
        return True

    def inference_moments(self) -> tuple[Tensor, Tensor] | None:
        """The running moments, pooled within groups."""
        if not self.track_running_stats:
            return None
        own = self.running_mean.detach()[None], self.running_var.detach()[None]
        pooled = statistics.group(*own, self.num_groups)
        return tuple(t[0].contiguous() for t in pooled)

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        return f'{super().extra_repr()}, num_groups={self.num_groups}'


@register_norm('SyncBGN')
class SyncBGN(Synchronized, BGN):
    """:class:`BGN` whose batch is that of the processes of a group.

    Arguments: :class:`.Synchronized` and :class:`BGN`.
    """
