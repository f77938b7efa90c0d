# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Population Normalization, and gamma decay, which stands for BN's noise.

Luo, Wang, Shao, Peng, "Towards Understanding Regularization in Batch
Normalization", ICLR 2019 (arXiv 1809.00846). The formulas are recalled from
the paper, unverified; that of the coefficient is tested numerically.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import torch
from torch import Tensor

from . import statistics
from .statistics import Moments
from .traced import inverse_root

# Second derivatives of a loss in the norm's output, by what follows it.
CURVATURES: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': lambda y: (y > 0).to(y.dtype),
    'softplus': torch.sigmoid,
    'logistic': lambda y: torch.sigmoid(y) * torch.sigmoid(-y),
}
Curvature = Union[str, Callable[[Tensor], Tensor]]


class PopulationRule:
    """y = weight (x - mean) / sqrt(var + eps) + bias, of constants.

    Args:
        eps: added to the variance, inside the root.
        population: mean and variance (C,), without gradient; None for the
            batch's, with which a population is measured.
    """

    def __init__(
        self, eps: float = 1e-5, population: Moments | None = None
    ) -> None:
        self.eps, self.population = eps, population

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
            centre, scale, bias; and, of the batch's moments, what
            :func:`.statistics.batch_extra` makes of them.
        """
        mean, var, extras = statistics.batch_or_running(
            m, v, size, self.population
        )
        scale = inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        if bias is None:
            bias = torch.zeros_like(m[:1])
        return mean, scale, bias, *extras


def gamma_decay_coefficient(
    x: Tensor,
    y: Tensor,
    batch_size: int | None = None,
    activation: Curvature = 'relu',
) -> Tensor:
    """zeta of each channel: zeta gamma^2 is what BN's noise costs.

    zeta = (rho + 2) / (8 M) mean(A'' xhat^2) + mean(A'') / (2 M), with rho
    the excess kurtosis of x, xhat the standardized x, and A'' the loss's
    second derivative in y. The first term is from the noise of the batch's
    deviation, the second from that of its mean.

    Args:
        x: input of the norm, (N, C, *spatial).
        y: its output, likewise.
        batch_size: M, independent values that BN would have in a batch.
            Default: N S, as if positions were independent.
        activation: what follows: 'relu', 'softplus' or 'logistic' (a logistic
            loss), or a function of y that gives A''.

    Returns:
        (C,), in float64 where the device has it.

    Raises:
        ValueError: for an unknown activation.
    """
    if isinstance(activation, str):
        if activation not in CURVATURES:
            raise ValueError(
                f'unknown activation {activation!r}; choose from '
                f'{", ".join(map(repr, CURVATURES))}, or give a function'
            )
        activation = CURVATURES[activation]
    wide = torch.float32 if x.device.type == 'mps' else torch.float64
    x, y = (t.detach().to(wide).transpose(0, 1).flatten(1) for t in (x, y))
    if batch_size is None:
        batch_size = max(x.shape[1], 1)
    centred = x - x.mean(1, keepdim=True)
    var = centred.square().mean(1, keepdim=True)
    squares = centred.square() / var.clamp(min=torch.finfo(wide).tiny)
    curvature = activation(y)
    kurtosis = squares.square().mean(1) - 3
    by_deviation = (kurtosis + 2) / 8 * (curvature * squares).mean(1)
    return (by_deviation + curvature.mean(1) / 2) / batch_size
