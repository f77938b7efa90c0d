# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A constant map of each channel: what BN is in evaluation."""

from __future__ import annotations

from torch import Tensor, nn

from sn_mm.layers import RowNorm


class ChannelAffine(nn.Module):
    r"""y = weight (x - mean) / sqrt(var + eps) + bias, of given numbers.

    Batch norm with running statistics that no mode changes. It keeps the
    four vectors, not slope and offset, because PyTorch's batch norm takes
    them as they are, in one pass.

    Args:
        mean, var: (C,).
        weight, bias: (C,) or None.
        eps: added to ``var``, inside the root.

    Shape:
        Input and output: :math:`(N, C, *)`.
    """

    def __init__(
        self,
        mean: Tensor,
        var: Tensor,
        weight: nn.Parameter | None = None,
        bias: nn.Parameter | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.register_buffer('mean', mean)
        self.register_buffer('var', var)
        self.eps = eps

    @classmethod
    def from_norm(cls, norm: RowNorm) -> ChannelAffine:
        """What a norm does in evaluation that has ``inference_moments``."""
        mean, var = norm.inference_moments()
        return cls(
            mean,
            var,
            norm.weight,
            norm.bias,
            norm.eps,
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            x, self.mean, self.var, self.weight, self.bias, eps=self.eps
        )

    def extra_repr(self) -> str:
        return f'{self.mean.numel()}, eps={self.eps}'
