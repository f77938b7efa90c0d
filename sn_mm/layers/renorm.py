# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch Renormalization layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sn_mm.functional import normalize_rows
from sn_mm.functional.renorm import Limit, RenormRule, scheduled
from sn_mm.functional.running import update_running
from sn_mm.functional.traced import in_backward, is_traced, stored
from sn_mm.utils import check_count

from .arguments import warn_of_momentum
from .base import RowNorm
from .registration import register_norm
from .sync import Synchronized

# Ioffe (2017), after the paper: r_max from 1 to 3, d_max from 0 to 5.
PUBLISHED_SCHEDULE = dict(
    start=5000, r_max=3.0, r_end=40000, d_max=5.0, d_end=25000
)
_NO_EPS = 1e-30  # PyTorch takes no 0


@register_norm('BRN', 'BRN2d')
class BRN(RowNorm):
    r"""Batch Renormalization over (N, C, \*spatial), of any rank.

    .. math::
        y = \gamma \left(\frac{x - \mu}{\sigma} r + d\right) + \beta, \quad
        r = \mathrm{clip}(\sigma / \hat\sigma), \quad
        d = \mathrm{clip}((\mu - \hat\mu) / \hat\sigma)

    with :math:`\mu, \sigma` of the batch, :math:`\hat\mu, \hat\sigma` the
    running mean and standard deviation, and r and d constants for the
    gradient ("Batch Renormalization: Towards Reducing Minibatch Dependence in
    Batch-Normalized Models", NeurIPS 2017).

    Args:
        num_features: C.
        eps: added to the batch's variance, inside the root.
        momentum: PyTorch's, the weight of the new value in the running
            statistics (0.01 is the paper's alpha, unverified); None averages
            over all calls.
        affine: learn ``weight`` and ``bias``.
        r_max, d_max: r lies in [1 / r_max, r_max], d in [-d_max, d_max], from
            the first step on. The defaults are those of the SN papers.
        renorm_schedule: limits that grow instead, and ``r_max`` and ``d_max``
            do not matter: BN until step ``start``, then r_max grows linearly
            from 1 to 'r_max' at step 'r_end', d_max from 0 to 'd_max' at step
            'd_end'. What is left out is after the paper, unverified:
            ``dict(start=5000, r_max=3, r_end=40000, d_max=5, d_end=25000)``.
            Steps are the training forwards of the layer
            (``num_batches_tracked``, in the state dict): a head that serves
            five pyramid levels makes five of them in one iteration.
        bn_eval: normalize with the running statistics, and leave them
            alone, while training too.
        device, dtype: of parameters and buffers.

    Attributes:
        weight, bias: (C,).
        running_mean, running_std: (C,) buffers, initially 0 and 1; the
            standard deviation has eps inside its root.
        num_batches_tracked: int64 scalar buffer. Batches that are not finite
            do not count.

    An activation checkpoint (``with_cp``) repeats a forward in the backward:
    with the statistics of the first time, and without counting it.

    A state dict of BN fits: its ``running_var`` becomes ``running_std``, and
    evaluation is the same function.

    Raises:
        ValueError, TypeError: for arguments out of range, or of a wrong
            type; in forward, for input of a wrong rank, channel count or
            dtype.
    """

    _abbr_ = 'bn'
    can_rectify = True
    running_names = ('running_mean', 'running_std')
    options = dict(r_max=1.5, d_max=0.5, renorm_schedule=None, bn_eval=False)
    # running statistics and limits of the last training step, for an
    # activation checkpoint that repeats it after they have moved
    _last = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.01,
        affine: bool = True,
        r_max: float = 1.5,
        d_max: float = 0.5,
        renorm_schedule: Mapping[str, Any] | None = None,
        bn_eval: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        warn_of_momentum(momentum)
        super().__init__(
            *(num_features, eps, momentum, affine),
            bn_eval=bn_eval,
            device=device,
            dtype=dtype,
        )
        _check_limits(r_max, d_max)
        buffers = self._buffers
        count = buffers.pop('num_batches_tracked')
        self.register_buffer('running_std', buffers.pop('running_var'))
        self.register_buffer('num_batches_tracked', count)
        self.r_max, self.d_max = r_max, d_max
        _check_schedule(renorm_schedule)
        self.renorm_schedule = renorm_schedule

    def normalize(self, x: Tensor) -> Tensor:
        """The layer's output for an input that was checked."""
        evaluates = not self.training or self.bn_eval
        y = self.if_constant_map(x) if evaluates else None
        if y is not None:
            return y
        is_again = not evaluates and in_backward()
        given = self._last if is_again else None
        if given is None:
            running = (
                self.own_tensor('running_mean').detach(),
                self.own_tensor('running_std').detach(),
            )
            if not evaluates:  # as they were, for the rule's call in backward
                running = tuple(stored(t.clone()) for t in running)
            given = running, self.limits()
        if not is_traced(x):
            self._last = None if evaluates else given
        running, limits = given
        rule = RenormRule(
            running,
            self.eps,
            *limits,
            evaluates=evaluates,
            process_group=self.resolved_group(),
        )
        result = normalize_rows(
            *(x, rule, self.own_tensor('weight'), self.own_tensor('bias')),
            relu=self.rectifies,
        )
        if evaluates:
            return result
        y, batch = result
        if not is_again:
            self.track(x, batch)
        return y

    def __getstate__(self) -> dict:
        """Copies do not recompute what has run here."""
        return dict(self.__dict__, _last=None)

    def limits(self) -> tuple[Limit, Limit]:
        """r_max and d_max of the next training step."""
        if self.measures is not None:
            return 1.0, 0.0  # the batch's moments, as they are
        if self.renorm_schedule is None:
            return self.r_max, self.d_max
        plan = {**PUBLISHED_SCHEDULE, **self.renorm_schedule}
        start, step = plan['start'], stored(self.num_batches_tracked)
        return (
            scheduled(step, start, plan['r_end'], 1.0, plan['r_max']),
            scheduled(step, start, plan['d_end'], 0.0, plan['d_max']),
        )

    def move_running_(self, batch: Tensor) -> None:
        """Move mean and standard deviation towards the batch's."""
        mean, var, *count = batch.detach().unbind(0)
        update_running(
            self.running_mean,
            self.running_std,
            self.num_batches_tracked,
            torch.stack([mean, (var + self.eps).sqrt(), *count]),
            self.momentum,
        )

    @torch.no_grad()
    def set_running_(self, mean: Tensor, var: Tensor) -> None:
        """Take given running statistics, in place."""
        self.running_mean.copy_(mean)
        self.running_std.copy_((var + self.eps).sqrt())

    def reset_running_stats(self) -> None:
        """Running statistics as in a new layer: mean 0, deviation 1."""
        if 'running_std' not in self._buffers:
            return super().reset_running_stats()  # torch's constructor
        self.running_mean.zero_()
        self.running_std.fill_(1)
        self.num_batches_tracked.zero_()

    # -- what it says of itself -------------------------------------------
    @property
    def uses_batch_statistics(self) -> bool:
        """Always."""
        return True

    def inference_moments(self) -> tuple[Tensor, Tensor]:
        """The running ones; the variance may lack as much as eps brings."""
        std = self.running_std.detach().clamp(min=self.eps)
        return self.running_mean.detach(), std.square() - self.eps

    def constant_moments(self) -> tuple[Tensor, Tensor, float]:
        """With all of the variance: less eps, plus eps would round."""
        std = self.running_std.detach().clamp(min=self.eps)
        return self.running_mean.detach(), std.square(), _NO_EPS

    def as_batch_norm(self) -> dict[str, Tensor]:
        """What BN in its place would hold."""
        var = self.inference_moments()[1].clamp(min=0)
        return {**super().as_batch_norm(), 'running_var': var}

    @torch.no_grad()
    def take_batch_norm_(self, tensors: dict[str, Tensor]) -> None:
        """Copy what BN in its place held; a schedule begins anew."""
        super().take_batch_norm_(tensors)
        var = tensors.get('running_var')
        if var is not None:
            self.running_std.copy_((var.detach() + self.eps).sqrt())
            if self.renorm_schedule is not None:
                self.num_batches_tracked.zero_()

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        var = state_dict.get(f'{prefix}running_var')
        std = f'{prefix}running_std'
        if isinstance(var, Tensor) and std not in state_dict:
            state_dict[std] = (var + self.eps).sqrt()
            del state_dict[f'{prefix}running_var']
            if self.renorm_schedule is not None:
                count = f'{prefix}num_batches_tracked'
                state_dict[count] = torch.zeros_like(self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)


@register_norm('SyncBRN', 'SyncBRN2d')
class SyncBRN(Synchronized, BRN):
    """:class:`BRN` whose batch is that of a process group.

    Arguments, attributes and errors: :class:`.Synchronized` and
    :class:`BRN`. State dicts are interchangeable with BRN's.
    """


def _check_limits(r_max: float, d_max: float) -> None:
    if not (isinstance(r_max, (int, float)) and r_max >= 1):
        raise ValueError(
            f'r_max must be a number of at least 1 (1 is BN), got {r_max!r}; '
            'limits that grow are renorm_schedule=dict(...)'
        )
    if not (isinstance(d_max, (int, float)) and d_max >= 0):
        raise ValueError(
            f'd_max must be a number of at least 0 (0 is BN), got {d_max!r}; '
            'limits that grow are renorm_schedule=dict(...)'
        )


def _check_schedule(given: Mapping | None) -> None:
    if given is None:
        return
    known = PUBLISHED_SCHEDULE
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise ValueError(
            'renorm_schedule must be a dict with some of the keys '
            f'{", ".join(known)}, got {given!r}'
        )
    plan = {**known, **given}
    _check_limits(plan['r_max'], plan['d_max'])
    for name in ('r_end', 'd_end'):
        check_count(f'renorm_schedule[{name!r}]', plan[name])
        if not 0 <= plan['start'] <= plan[name]:
            raise ValueError(
                f'renorm_schedule: start={plan["start"]} must lie between 0 '
                f'and {name}={plan[name]}'
            )
