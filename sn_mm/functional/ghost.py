# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Ghost Batch Normalization: BN of parts of the batch.

Hoffer, Hubara, Soudry, "Train longer, generalize better: closing the
generalization gap in large batch training of neural networks", NeurIPS 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import statistics
from .statistics import Moments
from .traced import inverse_root


class GhostRule:
    """BN of so many samples at a time; the last part may be smaller.

    Args:
        virtual_batch_size: samples of a part.
        eps: added to variances, inside the root.
        running: mean and variance (C,) in place of the parts' own.
    """

    def __init__(
        self,
        virtual_batch_size: int,
        eps: float = 1e-5,
        running: Moments | None = None,
    ) -> None:
        self.virtual_batch_size = virtual_batch_size
        self.eps, self.running = eps, running

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            weight, bias: (C,) or None.

        Returns:
            centre, scale, bias; and, of the averages of the parts' moments,
            what :func:`.statistics.batch_extra` makes of them.
        """
        extras = ()
        if self.running is not None:
            mean, var = statistics.running(m, v, *self.running)
        else:
            parts = [
                statistics.batch(own, spread, size)
                for own, spread in zip(
                    m.split(self.virtual_batch_size),
                    v.split(self.virtual_batch_size),
                )
            ]
            means, variances = zip(*parts)
            average = [
                torch.cat(t).mean(0, keepdim=True) for t in (means, variances)
            ]
            extras = (statistics.batch_extra(*average, None),)
            part = torch.arange(m.shape[0], device=m.device)
            part = part // self.virtual_batch_size
            mean, var = torch.cat(means)[part], torch.cat(variances)[part]
        scale = inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        if bias is None:
            bias = torch.zeros_like(m[:1])
        return mean, scale, bias, *extras
