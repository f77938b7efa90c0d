# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of IBN: some channels by instance, the others by batch.

Pan, Luo, Shi, Tang, "Two at Once: Enhancing Learning and Generalization
Capacities via IBN-Net", ECCV 2018 (arXiv 1807.09441).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from . import statistics
from .traced import inverse_root


class InstanceBatchRule:
    """Instance norm of some consecutive channels, batch norm of the rest.

    Args:
        instance: number of channels with instance statistics, from 1 to
            C - 1.
        eps: added to variances, inside the root.
        instance_first: whether these are the first channels.
        running: mean and variance (C - instance,) in place of the batch's.
        process_group: the batch is that of all its processes.
    """

    def __init__(
        self,
        instance: int,
        eps: float = 1e-5,
        *,
        instance_first: bool = True,
        running: tuple[Tensor, Tensor] | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.instance = instance
        self.eps = eps
        self.instance_first = instance_first
        self.running = running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        instance_weight: Tensor | None = None,
        instance_bias: Tensor | None = None,
        batch_weight: Tensor | None = None,
        batch_bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            instance_weight, instance_bias: (instance,) or None.
            batch_weight, batch_bias: (C - instance,) or None.

        Returns:
            centre, scale, bias; and, where the batch is pooled, what
            :func:`.statistics.batch_extra` makes of its mean and variance,
            (2, 1, C - instance) or (3, 1, C - instance).
        """
        own, others = self._split(m), self._split(v)
        m_batch, v_batch = own[1], others[1]
        mu, spread, extras = statistics.batch_or_running(
            m_batch, v_batch, size, self.running, self.process_group
        )
        mean = self._join(own[0], mu.expand_as(m_batch))
        var = self._join(others[0], spread.expand_as(v_batch))
        scale = inverse_root(var + self.eps)
        weight = self._affine(instance_weight, batch_weight, m, 1.0)
        bias = self._affine(instance_bias, batch_bias, m, 0.0)
        return mean, scale * weight, bias, *extras

    def _split(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C) as the instance's channels and the batch's."""
        if self.instance_first:
            return t[:, : self.instance], t[:, self.instance :]
        rest = t.shape[1] - self.instance
        return t[:, rest:], t[:, :rest]

    def _join(self, instance: Tensor, batch: Tensor) -> Tensor:
        """The reverse of :meth:`_split`."""
        parts = [instance, batch]
        return torch.cat(parts if self.instance_first else parts[::-1], -1)

    def _affine(self, instance, batch, m: Tensor, default: float) -> Tensor:
        """One number for each channel, (C,), in m's precision."""
        sizes = self.instance, m.shape[1] - self.instance
        parts = [
            m.new_full((n,), default) if t is None else t.to(m.dtype)
            for t, n in zip((instance, batch), sizes)
        ]
        return self._join(*parts)
