# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of Switchable Normalization by fused kernels.

They are about 140 small operations in PyTorch, which cost a layer of a
detector more than its memory does.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from sn_mm.distributed.gather import gather_moments, merge_parts
from sn_mm.kernels.fused.switch import Switch
from sn_mm.kernels.layout import cast

from .numbers import AnyRule, Factors, Params, register_fused
from .switch import SwitchRule


class SwitchNumbers(AnyRule):
    """:class:`AnyRule` of exactly :class:`SwitchRule`, in few calls.

    ``brought`` is what the gather brought, if the batch is synchronized, and
    then the pooled moments of every statistic.
    """

    kernels = ''  # the module that computes

    @classmethod
    def is_usable(cls) -> bool:
        """Whether the kernels are to be had on this machine."""
        return not importlib.import_module(cls.kernels).why_not()

    def forward(
        self, moments: Tensor, params: Params
    ) -> tuple[Factors, Sequence[Tensor], Sequence[Tensor | None]]:
        gathered: list[Tensor] = []

        def exchange(own: Tensor) -> Tensor:
            count = moments.shape[1] * self.size
            parts = gather_moments(own, count, self.rule.process_group)
            gathered.append(parts)
            return merge_parts(parts).unsqueeze(1)

        factors, pools = self._module().forward(
            self._switch(),
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
        factors, _ = self._module().forward(
            self._switch(),
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
            dist.all_reduce(own, group=self.rule.process_group)
            return own * (self.size / total.clamp(min=1))

        factors, *d_params = self._module().backward(
            self._switch(),
            moments,
            sums,
            *_all_params(params),
            pools,
            given=self.rule.running is not None,
            exchange=exchange if self._is_synchronized() else None,
            size=self.size,
        )
        d_params = [
            cast(d, p.dtype) if need else None
            for d, p, need in zip(d_params, params, needs)
        ]
        return factors.unbind(0), d_params

    def _switch(self) -> Switch:
        rule = self.rule
        return Switch(
            rule.statistics,
            rule.num_groups,
            rule.softmax,
            rule.bessel(self.size),
            rule.softmax and rule.drops_instance(self.size),
            rule.eps,
        )

    def _is_synchronized(self) -> bool:
        group = self.rule.process_group
        return (
            group is not None
            and self.rule.running is None
            and 'bn' in self.rule.statistics
            and dist.get_world_size(group) > 1
        )

    def _module(self):
        return importlib.import_module(self.kernels)


class NativeSwitch(SwitchNumbers):
    """In C, beside the native sweeps."""

    kernels = 'sn_mm.kernels.fused.switch_native'


class TritonSwitch(SwitchNumbers):
    """On a GPU, beside Triton's sweeps."""

    kernels = 'sn_mm.kernels.fused.switch_triton'


def _all_params(params: Params) -> tuple:
    """mean_weight, var_weight, weight, bias."""
    return (*params, None, None)[:4]


register_fused(SwitchRule, 'native', NativeSwitch)
register_fused(SwitchRule, 'triton', TritonSwitch)
