# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sn_mm.functional import (
    STATISTICS,
    SwitchMixing,
    make_statistics,
    normalize,
)
from sn_mm.functional.running import move
from sn_mm.functional.statistics import Batch, Running

from .hard import RATIOS as _RATIOS
from .hard import HardRatios, columns

_AFFINE = ('weight', 'bias')
_RUNNING = ('running_mean', 'running_var')


class _SwitchNorm(HardRatios, _InstanceNorm):
    r"""Switchable Normalization over (N, C, \*spatial).

    .. math::
        y = \gamma \frac{x - \sum_k w_k \mu_k}
            {\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta

    with :math:`w`, :math:`w'` the softmax of ``mean_weight``, ``var_weight``
    and k over ``statistics`` ("Differentiable Learning-to-Normalize via
    Switchable Normalization", ICLR 2019, Eq. 3).

    Derived from torch's ``_InstanceNorm``: the toolboxes then treat it as a
    norm (weight decay), but never as a batch norm (``norm_eval``, fusion,
    conversion to SyncBN).

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
            torch's BatchNorm).
        num_batches_tracked: int64 scalar buffer.

    Raises:
        ValueError, TypeError: for arguments out of range, or of a wrong
            type, and for input of a wrong rank, channel count or dtype.

    Shape:
        Input and output: :math:`(N, C, *)`; N may be 0. With a single
        position (S = 1) the instance statistic is dropped and the other
        ratios are renormalized.
    """

    _abbr_ = 'sn'
    _ranks: tuple[int, ...] = ()

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
        _check_count('num_features', num_features)
        statistics = _check_statistics(statistics)
        if 'gn' in statistics:
            _check_divides('num_groups', num_groups, num_features)
        _check_divides('ratio_groups', ratio_groups, num_features)
        tracks = track_running_stats and 'bn' in statistics
        if bn_eval and not tracks:
            raise ValueError(
                f'bn_eval=True needs running BN statistics, but statistics='
                f'{statistics} and track_running_stats={track_running_stats}; '
                "include 'bn' and track, or leave bn_eval out"
            )
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            tracks,
            device=device,
            dtype=dtype,
        )
        self.statistics = statistics
        self.unbiased = unbiased
        self.bn_eval = bn_eval
        self.num_groups = num_groups
        self.ratio_groups = ratio_groups
        shape = (len(statistics),)
        if ratio_groups > 1:
            shape = (ratio_groups, *shape)
        for name in _RATIOS:
            self.register_parameter(
                name,
                nn.Parameter(torch.ones(shape, device=device, dtype=dtype)),
            )
        if hard_ratios:
            self._await_choice()
        self._warned = False

    def reset_parameters(self) -> None:
        """Affine, ratios and running statistics as in a new layer."""
        super().reset_parameters()
        self._choice = None
        for name in _RATIOS:
            if hasattr(self, name):  # not yet while the base initializes
                nn.init.ones_(getattr(self, name))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (N, C, *spatial); same shape, dtype and layout."""
        if isinstance(x, torch.fx.Proxy) and x.tracer.root is not self:
            return self._as_node(x)
        self._check_input_dim(x)
        used = self._used(x)
        names = self.statistics
        if len(used) < len(names):
            names = tuple(names[i] for i in used)
        self._warn_single_position(x, names)
        batch = self._batch_statistic()
        if self._is_constant(x, names, batch):
            return self._constant(x)
        mixing = self._mixing(batch, names)
        y, state = normalize(
            x,
            self.weight,
            self.bias,
            self.eps,
            mixing,
            *(columns(p, used) for p in self._mixing_parameters(x)),
        )
        tracks = self.track_running_stats and 'bn' in names
        if self.training and tracks and not batch.constant:
            for name, pooled in zip(names, mixing.pools(state)):
                if name == 'bn':
                    self._track(x, pooled)
        return y

    def ratios(self) -> dict[str, Tensor]:
        """What the layer chose: softmaxed, detached, shaped as the logits."""
        return {
            'mean': self.mean_weight.detach().softmax(-1),
            'var': self.var_weight.detach().softmax(-1),
        }

    def extra_repr(self) -> str:
        """The arguments that make this layer."""
        text = (
            f'{self.num_features}, eps={self.eps}, '
            f'momentum={self.momentum}, affine={self.affine}, '
            f'track_running_stats={self.track_running_stats}, '
            f'statistics={self.statistics}'
        )
        for name, default in (
            ('unbiased', False),
            ('bn_eval', False),
            ('ratio_groups', 1),
            ('hard_ratios', False),
        ):
            if getattr(self, name) != default:
                text += f', {name}={getattr(self, name)}'
        if 'gn' in self.statistics:
            text += f', num_groups={self.num_groups}'
        return text

    def _as_node(self, x: torch.fx.Proxy) -> torch.fx.Proxy:
        """One node of an fx graph, as torch's own norms are.

        Fusion passes (mmengine's ``efficient_conv_bn_eval``, torch's
        ``fuse``) then see a module that is no batch norm.
        """
        name = x.tracer.path_of_module(self)
        return x.tracer.create_proxy('call_module', name, (x,), {})

    # -- statistics ------------------------------------------------------
    def _mixing(self, batch: Batch, names: tuple[str, ...]) -> SwitchMixing:
        return SwitchMixing(
            make_statistics(names, batch, self.num_groups), self.unbiased
        )

    def _is_constant(
        self, x: Tensor, names: tuple[str, ...], batch: Batch
    ) -> bool:
        """Whether a hard choice leaves a map that is the same for any x."""
        alone = self._choice is not None and names == ('bn',)
        return alone and batch.constant and x.dtype == self.running_mean.dtype

    def _constant(self, x: Tensor) -> Tensor:
        """Running statistics alone: x need not be read for moments."""
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            eps=self.eps,
        )

    def _mixing_parameters(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean_weight, self.var_weight

    def _uses_batch(self) -> bool:
        """Whether BN's statistics are the batch's, not the running ones."""
        if not self.track_running_stats:
            return True
        return self.training and not self.bn_eval

    def _batch_statistic(self) -> Batch:
        """BN's statistic in the current mode."""
        if self._uses_batch():
            return Batch()
        return Running(self.running_mean, self.running_var)

    def _track(self, x: Tensor, pooled: Tensor) -> None:
        """Move the running statistics towards the batch's, pooled."""
        if pooled.shape[0] == 2 and not x.numel():
            return  # and no other process has anything, either
        move(
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
            pooled,
            self.momentum,
        )

    # -- input -----------------------------------------------------------
    def _check_input_dim(self, x: Tensor) -> None:
        name = type(self).__name__
        if x.dim() not in self._ranks:
            raise ValueError(
                f'{name} expects input of rank '
                f'{" or ".join(map(str, self._ranks))} (N, C, ...), got '
                f'shape {tuple(x.shape)}'
            )
        if x.shape[1] != self.num_features:
            raise ValueError(
                f'{name}(num_features={self.num_features}) got input with '
                f'{x.shape[1]} channels, shape {tuple(x.shape)}; build the '
                f'layer with num_features={x.shape[1]}'
            )
        if not x.is_floating_point():
            raise TypeError(
                f'{name} expects a floating-point input, got '
                f'{x.dtype}; convert it with .float()'
            )

    def _warn_single_position(self, x: Tensor, names: tuple[str, ...]) -> None:
        drops = 'in' in names and len(names) > 1
        if self._warned or not drops or math.prod(x.shape[2:]) != 1:
            return
        self._warned = True
        warnings.warn(
            'SN on a map of a single position, which has no instance '
            "variance: the 'in' statistic is left out there. The paper "
            '(TPAMI, Table XI) advises another norm for such layers.',
            stacklevel=3,
        )

    # -- checkpoints -----------------------------------------------------
    def _load_from_state_dict(
        self,
        state_dict,
        prefix,
        local_metadata,
        strict,
        missing_keys,
        unexpected_keys,
        error_msgs,
    ) -> None:
        self._migrate(state_dict, prefix)
        if local_metadata.get('unbiased', self.unbiased) != self.unbiased:
            warnings.warn(
                f'the checkpoint was trained with unbiased='
                f'{not self.unbiased}, the model has unbiased={self.unbiased}:'
                f' set unbiased={not self.unbiased} in norm_cfg, or outputs '
                'differ by percents in the last stages',
                stacklevel=2,
            )
        shape = tuple(self.mean_weight.shape)
        for name in _RATIOS:
            value = state_dict.get(prefix + name)
            if value is not None and tuple(value.shape) != shape:
                error_msgs.append(
                    f'{prefix}{name} has shape {tuple(value.shape)}, but this '
                    f'layer has statistics={self.statistics}, ratio_groups='
                    f'{self.ratio_groups} and needs {shape}: set statistics '
                    "in norm_cfg to the checkpoint's (three ratios: "
                    "('in', 'ln', 'bn'), two: ('in', 'ln'))"
                )
        # _InstanceNorm's own loader refuses running statistics without
        # version metadata; here they are plain unexpected keys.
        super(_InstanceNorm, self)._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
        if self.hard_ratios and self._loads_ratios(state_dict, prefix):
            self.harden_()

    def _loads_ratios(self, state_dict, prefix: str) -> bool:
        shape = self.mean_weight.shape
        return all(
            prefix + name in state_dict
            and state_dict[prefix + name].shape == shape
            for name in _RATIOS
        )

    def _migrate(self, state_dict, prefix: str) -> None:
        """Public layout to ours, by evidence: keys and shapes.

        (1, C, 1, 1) affine parameters, (1, C, 1) running statistics, and no
        num_batches_tracked.
        """
        for name in _AFFINE + _RUNNING:
            value = state_dict.get(prefix + name)
            if (
                isinstance(value, Tensor)
                and value.dim() > 1
                and value.shape[:1] == (1,)
                and value.numel() == value.shape[1]
            ):
                state_dict[prefix + name] = value.reshape(-1)
        count = prefix + 'num_batches_tracked'
        if (
            self.track_running_stats
            and count not in state_dict
            and prefix + 'running_mean' in state_dict
        ):
            state_dict[count] = torch.zeros_like(self.num_batches_tracked)


@MODELS.register_module()
class SN1d(_SwitchNorm):
    __doc__ = _SwitchNorm.__doc__.replace(
        r'(N, C, \*spatial)', '(N, C) or (N, C, L)'
    )
    _ranks = (2, 3)


@MODELS.register_module(name=['SN', 'SN2d'])
class SN2d(_SwitchNorm):
    __doc__ = _SwitchNorm.__doc__.replace(r'(N, C, \*spatial)', '(N, C, H, W)')
    _ranks = (4,)


@MODELS.register_module()
class SN3d(_SwitchNorm):
    __doc__ = _SwitchNorm.__doc__.replace(
        r'(N, C, \*spatial)', '(N, C, D, H, W)'
    )
    _ranks = (5,)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f'{name} must be an int, got {value!r}')
    if value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}')


def _check_divides(name: str, value: int, num_features: int) -> None:
    _check_count(name, value)
    if num_features % value:
        raise ValueError(
            f'{name}={value} does not divide num_features={num_features}; '
            f'choose a divisor of {num_features}'
        )


def _check_statistics(statistics: Sequence[str]) -> tuple[str, ...]:
    allowed = ', '.join(map(repr, STATISTICS))
    if isinstance(statistics, str) or not isinstance(
        statistics, (list, tuple)
    ):
        raise TypeError(
            f'statistics must be a tuple or list of names out of '
            f'{allowed}, got {statistics!r}'
        )
    if not statistics:
        raise ValueError(
            f'statistics is empty; name at least one of {allowed}'
        )
    for name in statistics:
        if name not in STATISTICS:
            raise ValueError(
                f'unknown statistic {name!r} in {statistics!r}; '
                f'choose from {allowed}'
            )
    if len(set(statistics)) != len(statistics):
        raise ValueError(
            f'duplicate statistic in {statistics!r}; name each one once'
        )
    return tuple(statistics)
