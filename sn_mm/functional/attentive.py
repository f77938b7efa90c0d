# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Attentive Normalization.

Li, Sun, Wu, "Attentive Normalization", ECCV 2020.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from . import statistics
from .statistics import Moments
from .traced import inverse_root

# inside the root of what the attention sees
ATTENTION_EPS = 1e-3


class AttentiveRule:
    """BN or GN with several affine pairs, mixed anew for every sample.

    The shares of the pairs are hsigmoid(attention_weight f + attention_bias),
    f being a sample's means over positions, each over its deviation.

    Args:
        eps: added to the variance, inside the root.
        num_groups: of GN; None for BN.
        running: mean and variance (C,) that BN takes instead of the batch's.
        process_group: BN's batch is that of all its processes.
    """

    def __init__(
        self,
        eps: float = 1e-5,
        num_groups: int | None = None,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.eps, self.num_groups, self.running = eps, num_groups, running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        attention_weight: Tensor,
        attention_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            attention_weight, attention_bias: (K, C) and (K,).
            weight, bias: (K, C), the pairs.

        Returns:
            centre, scale, bias; and, of the batch's moments, what
            :func:`.statistics.batch_extra` makes of them.
        """
        own = [t.to(m.dtype) for t in (attention_weight, weight, bias)]
        unbiased = v * (size / max(size - 1, 1))
        features = m * inverse_root(unbiased + ATTENTION_EPS)
        logits = features @ own[0].T + attention_bias.to(m.dtype)
        shares = (logits / 6 + 0.5).clamp(0, 1)
        if self.num_groups is None:
            mean, var, extras = statistics.batch_or_running(
                m, v, size, self.running, self.process_group
            )
        else:
            mean, var = statistics.group(m, v, self.num_groups)
            extras = ()
        scale = shares @ own[1] * inverse_root(var + self.eps)
        return mean, scale, shares @ own[2], *extras
