# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Kalman Normalization, and the prediction that it mixes in.

Wang, Peng, Luo, Wang, Lin: "Kalman Normalization: Normalizing Internal
Representations Across Network Layers", NeurIPS 2018 (arXiv 1802.03133), as
its public code computes it: a constant gain, no covariances, and the
network's own convolutions in place of a transition matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import statistics as pools
from .statistics import Moments, batch_extra
from .traced import inverse_root

# A prediction whose variances are, on average over the channels, so many
# times those of the batch is not believed.
MAX_VARIANCE_RATIO = 100.0
# Below it, a standard deviation has no slope that a gradient could follow.
_SMALLEST_VARIANCE = 1e-12


class KalmanRule:
    """Moments of the batch, corrected by what was predicted for them.

    With the batch's mean m and variance v, and predicted ones m' and v':
    mean = p m' + (1 - p) m; var = p v' + (1 - p) v + p (1 - p) (m - m')^2;
    y = weight (x - mean) / sqrt(var + eps) + bias. Gradients flow through
    all of them. Where v' / v averages 100 or more over the channels, or is
    not a number, and where nothing was predicted, mean = m and var = v.

    Args:
        p: share of the prediction, from 0 to 1.
        eps: added to the mixed variance, inside the root.
        running: mean and variance (C,) to normalize with instead.
        process_group: the batch is that of all its processes, and so is the
            prediction, each process's counting as its batch does.
    """

    def __init__(
        self,
        p: float,
        eps: float = 1e-5,
        *,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.p = p
        self.eps = eps
        self.running = running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        predicted_mean: Tensor | None = None,
        predicted_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            predicted_mean, predicted_var: (C,), or None for a first layer.
            weight, bias: (C,) or None.

        Returns:
            centre, scale, bias; and, where the batch was pooled, the mixed
            mean and variance (1, C), differentiable, and what
            :func:`.statistics.batch_extra` makes of them.
        """
        if self.running is not None:
            mean, var = pools.running(m, v, *self.running)
            extras = ()
        else:
            mean, var, count = self._mixed(
                m, v, size, predicted_mean, predicted_var
            )
            extras = mean, var, batch_extra(mean, var, count)
        scale = inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        if bias is None:
            bias = torch.zeros_like(m[:1])
        return mean, scale, bias, *extras

    def _mixed(self, m, v, size, predicted_mean, predicted_var):
        """Mean and variance (1, C), and the number of positions, if known."""
        if predicted_mean is None:
            return pools.batch_and_count(m, v, size, self.process_group)
        guess = [t.to(m.dtype)[None] for t in (predicted_mean, predicted_var)]
        if self.process_group is None:
            mean, var, count = pools.batch_and_count(m, v, size)
            return (*mix(mean, var, *guess, self.p), count)
        # in the same gather, as if they were other channels
        rows = (
            torch.cat([own, t.expand_as(own)], 1)
            for own, t in zip((m, v), guess)
        )
        *both, count = pools.batch_and_count(*rows, size, self.process_group)
        (mean, guess[0]), (var, guess[1]) = (t.chunk(2, 1) for t in both)
        return (*mix(mean, var, *guess, self.p), count)


def mix(
    mean: Tensor,
    var: Tensor,
    predicted_mean: Tensor,
    predicted_var: Tensor,
    p: float,
) -> Moments:
    """Moments corrected by a prediction, if that can be believed.

    Args:
        mean, var: (1, C), of the batch.
        predicted_mean, predicted_var: (1, C).
        p: share of the prediction.

    Returns:
        Mean and variance, (1, C).
    """
    with torch.no_grad():
        ratio = (predicted_var / var).mean()
        # not a number, of channels that are constant, is no less
        is_believed = ratio < MAX_VARIANCE_RATIO
    predicted_mean = torch.where(is_believed, predicted_mean, mean)
    predicted_var = torch.where(is_believed, predicted_var, var)
    between = p * (1 - p) * (mean - predicted_mean).square()
    return (
        p * predicted_mean + (1 - p) * mean,
        p * predicted_var + (1 - p) * var + between,
    )


# -- prediction ----------------------------------------------------------
def pseudo_sample(mean: Tensor, var: Tensor, noise: Tensor) -> Tensor:
    """A feature map with these moments, through ReLU.

    Args:
        mean, var: (C,), of what the ReLU is given.
        noise: (1, C, *spatial), standard normal.

    Returns:
        max(noise sqrt(var) + mean, 0), shaped like ``noise``.
    """
    ones = (1,) * (noise.dim() - 2)
    std = var.clamp(min=_SMALLEST_VARIANCE).sqrt()
    return torch.relu(noise * std.view(-1, *ones) + mean.view(-1, *ones))


def sampled_prediction(
    convolution: Callable[[Tensor], Tensor],
    mean: Tensor,
    var: Tensor,
    noise: Tensor,
) -> Moments:
    """Moments that a convolution's output will have, by one pseudo-sample.

    Args:
        convolution: that of the network, with its own weights, stride and
            padding.
        mean, var: (C,), of what the ReLU before it is given.
        noise: (1, C, *spatial), standard normal, on the map that the
            convolution is given.

    Returns:
        Mean and biased variance (C_out,) over the output's positions.
    """
    sample = pseudo_sample(mean, var, noise)
    rows = convolution(sample).flatten(2)[0]
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    mean = rows.mean(1)
    return mean, (rows - mean[:, None]).square().mean(1)


def expected_prediction(
    convolution: nn.modules.conv._ConvNd, mean: Tensor, var: Tensor
) -> Moments:
    """The same in closed form, without noise; ours, not published.

    Takes positions and channels as independent, and the border as the rest:
    mean = sum w E, var = sum w^2 V over the kernel, with E and V the moments
    of what a ReLU makes of normal numbers.

    Args:
        convolution: its weight, bias and groups count.
        mean, var: (C,), of what the ReLU before it is given.

    Returns:
        Mean and variance (C_out,).
    """
    mean, var = rectified_moments(mean, var)
    rows = convolution.weight.flatten(2)
    weight = rows.to(mean.dtype)
    groups = convolution.groups

    def gathered(kernel: Tensor, values: Tensor) -> Tensor:
        kernel = kernel.view(groups, -1, kernel.shape[1])
        return (kernel * values.view(groups, 1, -1)).sum(2).flatten()

    result = gathered(weight.sum(2), mean)
    if convolution.bias is not None:
        result = result + convolution.bias.to(result.dtype)
    return result, gathered(weight.square().sum(2), var)


def rectified_moments(mean: Tensor, var: Tensor) -> Moments:
    """Mean and variance of max(z, 0), z normal with these moments."""
    std = var.clamp(min=_SMALLEST_VARIANCE).sqrt()
    ratio = mean / std
    below = torch.special.ndtr(ratio)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    first = mean * below + std * density
    second = (mean.square() + std.square()) * below + mean * std * density
    return first, (second - first.square()).clamp(min=0)
