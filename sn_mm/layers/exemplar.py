# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Exemplar Normalization layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sn_mm.functional import STATISTICS, normalize_rows
from sn_mm.functional.exemplar import ExemplarRule
from sn_mm.functional.running import update_running
from sn_mm.utils import check_count

from .arguments import check_divides, check_names, warn_of_momentum
from .base import RowNorm
from .hard import NEVER
from .registration import register_norm
from .sync import Synchronized

_FEWEST = 4  # units of the hidden layer


@register_norm('EN')
class EN(RowNorm):
    r"""Exemplar Normalization over (N, C, \*spatial), of any rank.

    Mixes the outputs of several normalizers, each with an affine pair of its
    own, by ratios that a small attention finds for every sample: see
    :mod:`sn_mm.functional.exemplar`, which says what is the paper's and what
    is not. All ratios are equal in a new layer. What the ratio tools show is
    their running average over the samples of training.

    Weights of a network with BN are a start: layers have BN's names, and one
    affine pair is taken for each of the normalizers.

    Args:
        num_features: C.
        statistics: distinct names out of 'in', 'ln', 'bn', 'gn', in the
            order of the ratios. Without 'bn' there are no running moments.
        num_groups: channel groups of the 'gn' statistic.
        reduction: the hidden layer has C / reduction units, at least 4.
        others: see :class:`.RowNorm`.

    Attributes:
        weight, bias: (K, C), a row for each normalizer.
        embed_weight: (D, C) of the hidden layer.
        ratio_weight, ratio_bias: (K, D) and (K,) of the ratios' logits,
            initially 0.
        ratio_mean, ratio_var: (K,) buffers: running averages of the ratios'
            mean and variance over samples, of this process; they decide
            nothing.
        num_ratio_batches: int64 scalar buffer.
        running_mean, running_var: (C,) buffers, biased.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        TypeError, ValueError, CheckpointError: see :class:`.RowNorm`.
    """

    _abbr_ = 'bn'
    can_rectify = True
    ratio_tensors = ('ratio_mean',)
    settings = ('statistics', 'num_groups', 'eps')
    options = dict(bn_eval=False, reduction=16)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        statistics: Sequence[str] = ('in', 'ln', 'bn'),
        bn_eval: bool = False,
        num_groups: int = 32,
        reduction: int = 16,
        device=None,
        dtype=None,
    ) -> None:
        statistics = check_names('statistics', statistics, STATISTICS)
        check_count('reduction', reduction)
        warn_of_momentum(momentum)
        tracks = track_running_stats and 'bn' in statistics
        super().__init__(
            *(num_features, eps, momentum, affine, tracks),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        if 'gn' in statistics:
            check_divides('num_groups', num_groups, num_features)
        self.statistics = statistics
        self.num_groups = num_groups
        self.reduction = reduction
        like = torch.empty(0, device=device, dtype=dtype)
        for name, shape in self.shapes().items():
            if name.startswith('ratio_') and name.endswith(('mean', 'var')):
                self.register_buffer(name, torch.empty(shape).to(like))
            elif affine or name not in ('weight', 'bias'):
                self.add_parameter(name, *shape, like=like)
        self.register_buffer(
            'num_ratio_batches', torch.tensor(0, device=device)
        )
        if not tracks:  # torch.export numbers buffers as if none were None
            for name in ('running_mean', 'running_var', 'num_batches_tracked'):
                self.register_buffer(name, self._buffers.pop(name))
        self.reset_parameters()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not (C,), by name."""
        channels, count = self.num_features, len(self.statistics)
        units = max(channels // self.reduction, _FEWEST)
        return dict(
            weight=(count, channels),
            bias=(count, channels),
            embed_weight=(units, channels),
            ratio_weight=(count, units),
            ratio_bias=(count,),
            ratio_mean=(count,),
            ratio_var=(count,),
        )

    def reset_parameters(self) -> None:
        """As in a new layer: equal ratios, a random hidden layer."""
        super().reset_parameters()
        own = self._parameters
        with torch.no_grad():
            if own.get('embed_weight') is not None:
                nn.init.kaiming_normal_(own['embed_weight'])
            for name in ('ratio_weight', 'ratio_bias'):
                if own.get(name) is not None:
                    own[name].zero_()

    def reset_running_stats(self) -> None:
        """Running averages as in a new layer."""
        super().reset_running_stats()
        own = self._buffers
        if own.get('num_ratio_batches') is not None:
            own['ratio_mean'].fill_(1 / len(self.statistics))
            own['ratio_var'].zero_()
            own['num_ratio_batches'].zero_()

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        rule = ExemplarRule(
            self.statistics,
            self.eps,
            num_groups=self.num_groups,
            running=self.running_moments(),
            process_group=self.resolved_group(),
        )
        y, ratios, *batch = normalize_rows(
            *(x, rule, self.embed_weight, self.ratio_weight, self.ratio_bias),
            *(self.weight, self.bias),
            relu=self.rectifies,
        )
        if self.training and x.numel():
            update_running(
                self.ratio_mean,
                self.ratio_var,
                self.num_ratio_batches,
                ratios.detach(),
                self.momentum,
            )
        if batch:
            self.track(x, batch[0])
        return y

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """Whether 'bn' is among the statistics."""
        return 'bn' in self.statistics

    def uses_setting(self, name: str) -> bool:
        """Whether the output depends on one of ``settings``."""
        return name != 'num_groups' or 'gn' in self.statistics

    def ratios(self) -> dict[str, Tensor]:
        """The ratios' running average over samples, (K,), for both moments.

        Outputs are mixed, and with them means and deviations alike.
        """
        return self.ratios_of(self.ratio_mean.detach().clone())

    @classmethod
    def ratios_of(cls, ratio_mean: Tensor) -> dict[str, Tensor]:
        """:meth:`ratios`, of a layer's buffer."""
        return dict.fromkeys(('mean', 'var'), ratio_mean)

    @torch.no_grad()
    def sample_ratios(self, x: Tensor) -> Tensor:
        """(N, K), what the layer gives each sample of its input x."""
        self.check_input(x)
        rule = ExemplarRule(self.statistics)
        m = x.flatten(2).mean(2) if x.dim() > 2 else x
        own = self.embed_weight, self.ratio_weight, self.ratio_bias
        size = x[0, 0].numel()
        return rule.softmax(rule.logits(m.to(own[0].dtype), *own), size)

    @torch.no_grad()
    def set_ratios_(self, ratios: Mapping[str, Tensor]) -> None:
        """Give all samples the same ratios.

        Args:
            ratios: 'mean' and 'var', points of the simplex (K,), of which
                the average is taken.
        """
        ratio = (ratios['mean'] + ratios['var']) / 2
        self.ratio_weight.zero_()
        self.ratio_bias.copy_(ratio.log().clamp(min=NEVER))
        self.ratio_mean.copy_(ratio)
        self.ratio_var.zero_()

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = f'{super().extra_repr()}, statistics={self.statistics}'
        if 'gn' in self.statistics:
            text += f', num_groups={self.num_groups}'
        return text


@register_norm('SyncEN')
class SyncEN(Synchronized, EN):
    """:class:`EN` whose BN statistics are of the processes of a group.

    Arguments: :class:`.Synchronized` and :class:`EN`.
    """
