# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ghost Batch Normalization layers."""

from __future__ import annotations

from torch import Tensor

from sn_mm.functional.ghost import GhostRule
from sn_mm.utils import check_count

from .base import RowNorm
from .registration import register_norm


@register_norm('GhostBN')
class GhostBN(RowNorm):
    r"""Ghost BN over (N, C, \*spatial), of any rank: BN of sub-batches.

    A regularizer of large batches: see :mod:`sn_mm.functional.ghost`.
    Evaluation is BN's, and weights of BN load by name. There is no
    synchronized form: parts of a batch are the point.

    Args:
        num_features: C.
        virtual_batch_size: samples that are normalized together.
        others: see :class:`.RowNorm`.

    Attributes:
        weight, bias: (C,).
        running_mean, running_var: (C,) buffers: of the averages over the
            parts of a batch, biased.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    settings = ('eps',)
    options = dict(bn_eval=False, virtual_batch_size=16)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        virtual_batch_size: int = 16,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        check_count('virtual_batch_size', virtual_batch_size)
        super().__init__(
            *(num_features, eps, momentum, affine, track_running_stats),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        self.virtual_batch_size = virtual_batch_size

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        running = self.running_moments()
        y = None if running is None else self.if_constant_map(x)
        if y is not None:
            return y
        rule = GhostRule(self.virtual_batch_size, self.eps, running)
        return self.by_rule(x, rule, self.weight, self.bias)

    @property
    def uses_batch_statistics(self) -> bool:
        """Always."""
        return True

    def inference_moments(self) -> tuple[Tensor, Tensor] | None:
        """BN's running ones."""
        if not self.track_running_stats:
            return None
        return self.running_mean.detach(), self.running_var.detach()
