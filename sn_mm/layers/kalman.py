# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Kalman Normalization layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sn_mm.functional import normalize_rows
from sn_mm.functional.kalman import KalmanRule

from .arguments import check_share, warn_of_momentum
from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized


class MapMoments(NamedTuple):
    """What a norm relays of the map that it was given.

    Attributes:
        mean, var: (C,), differentiable.
        extent: spatial shape.
    """

    mean: Tensor
    var: Tensor
    extent: torch.Size


@register_norm('KN', 'KN2d')
class KN(RowNorm):
    r"""Kalman Normalization of input (N, C, \*spatial), of any rank.

    Wang et al., "Kalman Normalization: Normalizing Internal Representations
    Across Network Layers", NeurIPS 2018. In training, the batch's moments
    are mixed with those that were predicted from the norm before, with gain
    p: see :class:`sn_mm.functional.kalman.KalmanRule`. The mixed ones are
    what running statistics average, and what the next norm's prediction
    starts from. In evaluation it is batch norm, and state dicts are batch
    norm's.

    Predictions come from a backbone that relays them
    (``sn_mm.models.kn_resnet``). A layer that gets none, as by ``norm_cfg``
    alone, is what KN's first layer is: batch norm. It says so once.

    Args:
        num_features: C.
        eps: added to the mixed variance, inside the root.
        momentum: PyTorch's: the weight of the new value in the running
            statistics; None averages over all calls.
        affine: learn ``weight`` and ``bias``.
        track_running_stats: keep running statistics for evaluation;
            without, evaluation uses the batch's.
        p: share of the predicted moments. The public code has 0.05 where 128
            samples are normalized together, 0.9 where 2 are.
        bn_eval: normalize with the running statistics, and leave them
            alone, while training too.
        device, dtype: of parameters and buffers.

    Attributes:
        weight, bias: (C,).
        running_mean, running_var: (C,) buffers; averages of the mixed
            moments, the variance without an n / (n - 1) correction.
        num_batches_tracked: int64 scalar buffer.
        is_first: a network's first norm, for which nothing is predicted.
        is_relayed: a backbone relays predictions to it.
        relay: of the call that is under way, where there is one: given, a
            function without arguments that predicts mean and variance (C,),
            or None; left, :class:`MapMoments` with the mixed ones.

    Raises:
        ValueError, TypeError: for arguments out of range; in forward, for
            input of a wrong rank, channel count or dtype.

    Shape:
        Input and output: :math:`(N, C, *)`; N may be 0.
    """

    _abbr_ = 'bn'  # its state dicts are batch norm's
    can_rectify = True
    settings = ('eps',)
    options = dict(p=0.05, bn_eval=False)
    is_first = is_relayed = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        p: float = 0.05,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        warn_of_momentum(momentum)
        check_share('p', p)
        super().__init__(
            *(num_features, eps, momentum, affine, track_running_stats),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        self.p = float(p)

    @property
    def uses_batch_statistics(self) -> bool:
        """Yes."""
        return True

    def inference_moments(self) -> tuple[Tensor, Tensor] | None:
        """The running ones, if they are tracked."""
        if not self.track_running_stats:
            return None
        return self.running_mean, self.running_var

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        running = self.running_moments()
        if running is None:
            y, *mixed = self._corrected(x)
        else:
            y, mixed = self.if_constant_map(x), running
            if y is None:
                rule = KalmanRule(self.p, self.eps, running=running)
                y = self._through(x, rule)
        if self.relay is not None:
            self.relay.left = MapMoments(*mixed, x.shape[2:])
        return y

    def _corrected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and the mixed mean and variance (C,)."""
        predicted = (None, None)
        if self.relay is not None and self.relay.given is not None:
            predicted = self.relay.given()
        rule = KalmanRule(
            self.p, self.eps, process_group=self.resolved_group()
        )
        y, mean, var, batch = self._through(x, rule, *predicted)
        self.track(x, batch)
        return y, mean[0], var[0]

    def _through(self, x: Tensor, rule: KalmanRule, mean=None, var=None):
        return normalize_rows(
            *(x, rule, mean, var),
            *(self.own_tensor('weight'), self.own_tensor('bias')),
            relu=self.rectifies,
        )

    def take_place_of(
        self,
        old: nn.Module,
        replaced: Mapping[nn.Module, nn.Module],
        is_chosen: bool,
    ) -> None:
        """A KN layer of another kind gets the same moments."""
        if isinstance(old, KN):
            self.is_first, self.is_relayed = old.is_first, old.is_relayed

    def caveat(self) -> str | None:
        """What a config that builds it like this does not get."""
        if self.is_first or self.is_relayed or self.relay is not None:
            return None
        return (
            'KN without predicted moments is what its first layer is, batch '
            'norm: a norm_cfg cannot relay them. Use the backbone '
            'KNResNet (sn_mm.models.kn_resnet)'
        )


@register_norm('SyncKN')
class SyncKN(Synchronized, KN):
    """:class:`KN` whose batch is that of the processes of a group.

    Each process predicts with noise of its own; the predictions are pooled
    as the batches are, in the same collective, so that all processes
    normalize with the same moments. State dicts are interchangeable with
    KN's.

    Arguments, attributes and errors: :class:`Synchronized` and :class:`KN`.
    """
