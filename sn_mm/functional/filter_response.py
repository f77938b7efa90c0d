# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Filter Response Normalization: no mean is taken out.

Singh, Krishnan, "Filter Response Normalization Layer: Eliminating Batch
Dependence in the Training of Deep Neural Networks", CVPR 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FilterResponseRule:
    """y = weight x / sqrt(mean of x^2 over positions + |eps|) + bias."""

    def __init__(self, eps: float = 1e-6) -> None:
        self.eps = eps

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
        """
        scale = (v + m.square() + abs(self.eps)).rsqrt()
        if weight is not None:
            scale = scale * weight
        zeros = torch.zeros_like(m[:1])
        return zeros, scale, zeros if bias is None else bias
