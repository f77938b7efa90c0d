# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of Switchable Normalization by fused kernels.

They are about 140 small operations in PyTorch, which cost a layer of a
detector more than its memory does.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor

from sn_mm.distributed.gather import gather_moments, merge_parts
from sn_mm.distributed.waiting import waiting_for_others
from sn_mm.kernels.fused import switch_driven, switch_native, switch_triton
from sn_mm.kernels.fused.switch_settings import Switch
from sn_mm.kernels.layout import cast, is_worth_keeping

from .numbers import AnyRule, Factors, Params, register_fused
from .switch import SwitchRule


class SwitchNumbers(AnyRule):
    """:class:`AnyRule` of exactly :class:`SwitchRule`, in few calls.

    ``brought`` is what the gather brought, if the batch is synchronized, and
    then the pooled moments of every statistic.
    """

    kernels: ModuleType  # that compute

    def __init__(self, rule, size: int, *others) -> None:
        super().__init__(rule, size, *others)
        self.switch = Switch(
            rule.statistics,
            rule.num_groups,
            rule.softmax,
            rule.bessel(size),
            rule.softmax and rule.drops_instance(size),
            rule.eps,
        )

    def forward(
        self, moments: Tensor, params: Params
    ) -> tuple[Factors, Sequence[Tensor], Sequence[Tensor | None]]:
        gathered: list[Tensor] = []

        def exchange(own: Tensor) -> Tensor:
            count = moments.shape[1] * self.size
            parts = gather_moments(own, count, self.rule.process_group)
            gathered.append(parts)
            return merge_parts(parts).unsqueeze(1)

        factors, pools = self.kernels.forward(
            self.switch,
            moments,
            *_all_params(params),
            given=self.rule.running,
            exchange=exchange if self._is_synchronized() else None,
        )
        extras = ()
        if 'bn' in self.rule.statistics and self.rule.running is None:
            extras = (pools[self.rule.statistics.index('bn')],)
        return factors.unbind(0), extras, (*gathered, *pools)

    def factors(
        self,
        moments: Tensor,
        params: Params,
        brought: Sequence[Tensor | None],
    ) -> Factors:
        parts = brought[0] if self._is_synchronized() else None
        factors, _ = self.kernels.forward(
            self.switch,
            moments,
            *_all_params(params),
            given=self.rule.running,
            exchange=None
            if parts is None
            else lambda own: merge_parts(parts).unsqueeze(1),
        )
        return factors.unbind(0)

    def backward(
        self,
        moments: Tensor,
        sums: Tensor,
        params: Params,
        brought: Sequence[Tensor | None],
        d_extras: Sequence[Tensor | None],
        needs: Sequence[bool],
    ) -> tuple[Factors, list[Tensor | None]]:
        pools = brought[-len(self.rule.statistics) :]

        def exchange(own: Tensor) -> Tensor:
            total = pools[self.rule.statistics.index('bn')][2:]
            own = own.contiguous()
            with waiting_for_others(own.shape[-1]):
                dist.all_reduce(own, group=self.rule.process_group)
            return own * (self.size / total.clamp(min=1))

        factors, *d_params = self.kernels.backward(
            self.switch,
            moments,
            sums,
            *_all_params(params),
            pools,
            given=self.rule.running is not None,
            exchange=exchange if self._is_synchronized() else None,
            size=self.size,
        )
        return factors.unbind(0), self._wanted(d_params, params, needs)

    @staticmethod
    def _wanted(d_params, params, needs) -> list[Tensor | None]:
        """Gradients in the params' dtypes, where they are wanted."""
        return [
            cast(d, p.dtype) if need else None
            for d, p, need in zip(d_params, params, needs)
        ]

    def _is_synchronized(self) -> bool:
        group = self.rule.process_group
        return (
            group is not None
            and self.rule.running is None
            and 'bn' in self.rule.statistics
            and dist.get_world_size(group) > 1
        )


class NativeSwitch(SwitchNumbers):
    """In C beside the native sweeps; mostly with them, in one call each way.

    ``brought`` is then the given moments of 'bn', if there are any.
    """

    kernels = switch_native
    _is_driven = False

    @classmethod
    def is_usable(cls, device: torch.device) -> bool:
        """Whether the kernels work there."""
        return switch_native.why_not() is None

    def normalize(self, sweeps, x, params, relu):
        """See :meth:`AnyRule.normalize`."""
        rows = None
        if switch_driven.why_not() is None and not self._is_synchronized():
            rows = sweeps.Rows.from_tensor(x)
        if rows is None:
            return super().normalize(sweeps, x, params, relu)
        self._is_driven = True
        mixes_batch = 'bn' in self.switch.statistics
        given = self.rule.running if mixes_batch else None
        y, moments, batch = switch_driven.normalize(
            self.switch,
            rows,
            _all_params(params),
            given,
            is_worth_keeping(x),
            relu,
        )
        if given is not None:
            return y, moments, (), (batch,)
        return y, moments, (batch,) if mixes_batch else (), ()

    def differentiate(
        self, sweeps, dy, x, moments, params, brought, d_extras, needs, relu
    ):
        """See :meth:`AnyRule.differentiate`."""
        rows = None
        if self._is_driven:
            dy = torch.zeros_like(x) if dy is None else dy
            rows = sweeps.Rows.from_tensor(x, dy)
            if rows is None:  # of a kind that C cannot read
                _, _, brought = self.forward(sweeps.moments(x), params)
        if rows is None:
            return super().differentiate(
                sweeps,
                dy,
                x,
                moments,
                params,
                brought,
                d_extras,
                needs,
                relu,
            )
        d_x, d_params = switch_driven.differentiate(
            self.switch,
            rows,
            moments,
            _all_params(params),
            brought[0] if brought else None,
            needs[0],
            relu,
        )
        return d_x, self._wanted(d_params, params, needs[1:])


class TritonSwitch(SwitchNumbers):
    """On a GPU, beside Triton's sweeps."""

    kernels = switch_triton

    @classmethod
    def is_usable(cls, device: torch.device) -> bool:
        """Whether the kernels work there, as seen at their first use."""
        return switch_triton.why_not(device) is None


def _all_params(params: Params) -> tuple:
    """mean_weight, var_weight, weight, bias."""
    return (*params, None, None)[:4]


register_fused(SwitchRule, 'native', NativeSwitch)
register_fused(SwitchRule, 'triton', TritonSwitch)
