# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sn_mm.functional import STATISTICS, SwitchRule, normalize_rows
from sn_mm.utils.errors import CheckpointError

from .arguments import (
    check_divides,
    check_names,
    refuse_public_arguments,
    warn_of_momentum,
)
from .base import RowNorm
from .hard import RATIO_PARAMETERS, HardRatios, pick_ratios
from .ratio_forms import logits_of, sparse_to_logits
from .registration import register_norm


class SwitchNorm(HardRatios, RowNorm):
    r"""Switchable Normalization over (N, C, \*spatial), of any rank.

    .. math::
        y = \gamma \frac{x - \sum_k w_k \mu_k}
            {\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta

    with :math:`w`, :math:`w'` the softmax of ``mean_weight``, ``var_weight``
    and k over ``statistics`` ("Differentiable Learning-to-Normalize via
    Switchable Normalization", ICLR 2019, Eq. 3).

    Args:
        num_features: C.
        eps: added to the mixed variance, inside the root.
        momentum: PyTorch's: the weight of the new value in the running BN
            statistics; None averages over all calls.
        affine: learn ``weight`` and ``bias``.
        track_running_stats: keep running BN statistics for evaluation;
            without, evaluation uses the batch's.
        statistics: distinct names out of 'in', 'ln', 'bn', 'gn', in the
            order of the ratios. Without 'bn' there are no running
            statistics.
        unbiased: the instance variance divides by S - 1, S being the number
            of positions, and the other variances are derived from it, as in
            the public code and its released weights. Default: the paper's
            Eq. 2, dividing by S.
        bn_eval: normalize with the running BN statistics, and leave them
            alone, while training too.
        num_groups: channel groups of the 'gn' statistic.
        ratio_groups: G; C / G consecutive channels share their ratios.
        hard_ratios: use one statistic for the mean and one for the variance,
            those with the largest of the ratios that are loaded, and never
            change that; only what they need is computed.
        device, dtype: of parameters and buffers.

    Attributes:
        weight, bias: (C,).
        mean_weight, var_weight: ratio logits, (K,), or (G, K) where G > 1;
            initially 1. Buffers where ``hard_ratios``.
        running_mean, running_var: (C,) buffers. The variance is the one that
            normalizes (BN's of Eq. 4: no n / (n - 1) correction, unlike
            torch's BatchNorm). Batches that are not finite do not count.
        num_batches_tracked: int64 scalar buffer.

    Raises:
        ValueError, TypeError: for arguments out of range, or of a wrong
            type; in forward, for input of a wrong rank, channel count or
            dtype, and for parameters that do not fit the layer's settings.
        CheckpointError: in loading a state dict that was saved under other
            settings, and would compute another function.

    Shape:
        Input and output: :math:`(N, C, *)`; N may be 0. With a single
        position (S = 1) the instance statistic is dropped and the other
        ratios are renormalized.
    """

    _abbr_ = 'sn'
    can_rectify = True
    initial = dict(mean_weight=1, var_weight=1)
    settings = ('statistics', 'num_groups', 'unbiased', 'eps')
    options = dict(
        unbiased=False, bn_eval=False, ratio_groups=1, hard_ratios=False
    )

    def __new__(cls, *args, **kwargs):
        refuse_public_arguments(kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        statistics: Sequence[str] = ('in', 'ln', 'bn'),
        unbiased: bool = False,
        bn_eval: bool = False,
        num_groups: int = 32,
        ratio_groups: int = 1,
        hard_ratios: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        statistics = check_names('statistics', statistics, STATISTICS)
        tracks = track_running_stats and 'bn' in statistics
        if bn_eval and not tracks:
            raise ValueError(
                f'bn_eval=True needs running BN statistics, but statistics='
                f'{statistics} and track_running_stats={track_running_stats}; '
                "include 'bn' and track, or leave bn_eval out"
            )
        warn_of_momentum(momentum)
        super().__init__(
            *(num_features, eps, momentum, affine, tracks),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        if 'gn' in statistics:
            check_divides('num_groups', num_groups, num_features)
        check_divides('ratio_groups', ratio_groups, num_features)
        self.statistics = statistics
        self.unbiased = unbiased
        self.num_groups = num_groups
        self.ratio_groups = ratio_groups
        for name in RATIO_PARAMETERS:
            ones = torch.ones(self._ratio_shape(), device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(ones))
        if hard_ratios:
            self._await_choice()
        self._warned = False

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        used = self._used(x)
        names = self.statistics
        if len(used) < len(names):
            names = tuple(names[i] for i in used)
        self._warn_single_position(x, names)
        running = self.running_moments()
        if self._is_constant(x, names, running):
            return self.constant_map(x)
        rule = SwitchRule(
            names,
            self.eps,
            unbiased=self.unbiased,
            num_groups=self.num_groups,
            softmax=self._softmax,
            running=running,
            process_group=self.resolved_group(),
        )
        mean_weight, var_weight = self._ratio_weights(x)
        result = normalize_rows(
            x,
            rule,
            pick_ratios(mean_weight, used),
            pick_ratios(var_weight, used),
            self.own_tensor('weight'),
            self.own_tensor('bias'),
            relu=self.rectifies,
        )
        if not isinstance(result, tuple):
            return result
        y, batch = result
        self.track(x, batch)
        return y

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether 'bn' is among the statistics."""
        return 'bn' in self.statistics

    def uses_setting(self, name: str) -> bool:
        """Whether the output depends on one of ``settings``."""
        return name != 'num_groups' or 'gn' in self.statistics

    def inference_moments(self) -> tuple[Tensor, Tensor] | None:
        """Running statistics, where 'bn' alone is in use for both moments."""
        if not (
            self.track_running_stats and self._statistics_chosen() == {'bn'}
        ):
            return None
        return self.running_mean, self.running_var

    def ratios(self) -> dict[str, Tensor]:
        """What the layer chose: softmaxed, detached, shaped as the logits."""
        return {
            'mean': self.mean_weight.detach().softmax(-1),
            'var': self.var_weight.detach().softmax(-1),
        }

    @torch.no_grad()
    def set_ratios_(self, ratios: Mapping[str, Tensor]) -> None:
        """Give the layer ratios as :meth:`ratios` returns them.

        Args:
            ratios: 'mean' and 'var', points of the simplex, (K,) or (G, K).
        """
        for moment, ratio in ratios.items():
            self._set_ratio(moment, ratio)

    def _set_ratio(self, moment: str, ratio: Tensor) -> None:
        weight = getattr(self, f'{moment}_weight')
        weight.data.copy_(logits_of(ratio))

    def check_state(self) -> None:
        """Raise an error that names what does not fit the settings."""
        super().check_state()
        wanted = self._ratio_shape()
        for name in RATIO_PARAMETERS:
            t = self.own_tensor(name)
            if t is None or t.shape != wanted:
                shape = None if t is None else tuple(t.shape)
                raise ValueError(
                    f'{name} has shape {shape}, but statistics='
                    f'{self.statistics} and ratio_groups={self.ratio_groups} '
                    f'need {wanted}: change them together, or build a new '
                    'layer'
                )
        if 'gn' in self.statistics and self.num_features % self.num_groups:
            check_divides('num_groups', self.num_groups, self.num_features)

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = f'{super().extra_repr()}, statistics={self.statistics}'
        if 'gn' in self.statistics:
            text += f', num_groups={self.num_groups}'
        return text

    # -- statistics ------------------------------------------------------
    _softmax = True  # whether ratios are the softmax of the weights

    def _ratio_shape(self) -> tuple[int, ...]:
        shape = (len(self.statistics),)
        return (self.ratio_groups, *shape) if self.ratio_groups > 1 else shape

    def _ratio_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.own_tensor('mean_weight'), self.own_tensor('var_weight')

    def _statistics_chosen(self) -> set[str]:
        """The statistics in use of a layer whose ratios are one-hot.

        Of a hard layer without a look at its ratios, which costs a wait for
        the GPU, and which no compiler or exporter can follow.
        """
        if self._choice is not None:
            return {self.statistics[i] for i in self._choice}
        choices = self.choices() or {}
        return {name for names in choices.values() for name in names}

    def _is_constant(
        self,
        x: Tensor,
        names: tuple[str, ...],
        running: tuple[Tensor, Tensor] | None,
    ) -> bool:
        """Whether a hard choice leaves a map that is the same for any x."""
        alone = self._choice is not None and names == ('bn',)
        return alone and running is not None and x.dtype == running[0].dtype

    def _warn_single_position(self, x: Tensor, names: tuple[str, ...]) -> None:
        drops = 'in' in names and len(names) > 1
        if self._warned or not drops or math.prod(x.shape[2:]) != 1:
            return
        self._warned = True
        warnings.warn(
            'SN on a map of a single position, which has no instance '
            "variance: the 'in' statistic is left out there. The paper "
            '(TPAMI, Table XI) advises another norm for such layers.',
            stacklevel=4,
        )

    # -- checkpoints -----------------------------------------------------
    def _take_ratios(self, state_dict, prefix: str) -> None:
        """Put ratios into the form that this kind of layer keeps, in place."""
        sparse_to_logits(state_dict, prefix)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        self._take_ratios(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def check_loading(
        self, state_dict: dict[str, Tensor], prefix: str, errors: list[str]
    ) -> None:
        """Refuse another norm's state, and ratios of other statistics."""
        shape = self._ratio_shape()
        given = [state_dict.get(prefix + name) for name in RATIO_PARAMETERS]
        if prefix + 'weight' in state_dict and given == [None, None]:
            raise CheckpointError(
                f'{prefix}weight comes without {prefix}mean_weight and '
                f'{prefix}var_weight: it is of another norm than SN. Start '
                'from the weights of a network with BN by putting bn2sn:// in '
                "front of their file's name, in init_cfg, load_from or "
                'sn_mm.load_pretrained'
            )
        for name, value in zip(RATIO_PARAMETERS, given):
            if value is not None and tuple(value.shape) != shape:
                errors.append(
                    f'{prefix}{name} has shape {tuple(value.shape)}, but this '
                    f'layer has statistics={self.statistics}, ratio_groups='
                    f'{self.ratio_groups} and needs {shape}: set statistics '
                    "in norm_cfg to the checkpoint's (three ratios: "
                    "('in', 'ln', 'bn'), two: ('in', 'ln'))"
                )

    def after_loading(
        self, state_dict: dict[str, Tensor], prefix: str
    ) -> None:
        """Choose by the ratios that were loaded, if they are to be hard."""
        given = [state_dict.get(prefix + name) for name in RATIO_PARAMETERS]
        shape = self._ratio_shape()
        fit = all(t is not None and tuple(t.shape) == shape for t in given)
        if self.hard_ratios and fit:
            self.choose_()


@register_norm('SN', 'SN2d')
class SN2d(SwitchNorm):
    """Switchable Normalization of input (N, C, *spatial), of any rank.

    Arguments, attributes and errors: :class:`SwitchNorm`.
    """


@register_norm('SN1d')
class SN1d(SwitchNorm):
    """Switchable Normalization of input (N, C) or (N, C, L) alone.

    Arguments, attributes and errors: :class:`SwitchNorm`.
    """

    _ranks = (2, 3)


@register_norm('SN3d')
class SN3d(SwitchNorm):
    """Switchable Normalization of input (N, C, D, H, W) alone.

    Arguments, attributes and errors: :class:`SwitchNorm`.
    """

    _ranks = (5,)
