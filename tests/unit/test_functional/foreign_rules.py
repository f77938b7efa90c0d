# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Rules that the package does not know, each beside what it means.

Of four different kinds, as proof that the interface is wide enough. A case's
``oracle`` takes x itself, and every moment directly over the axes that define
it: float64 autograd through it is what a rule must give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sn_mm.functional import statistics

EPS = 1e-2


class Case(NamedTuple):
    """A rule, its oracle, and parameters for C channels.

    ``rule(m, v, size, *params)``, ``oracle(x, *params)`` returns (y,
    *extras), ``params(samples, channels)`` are in float32.
    """

    rule: Callable
    oracle: Callable
    params: Callable


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=gen)


def positive(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).abs() + 0.5


def over_positions(t: Tensor, x: Tensor) -> Tensor:
    """Numbers (N or 1, C) as they broadcast to x."""
    return t.reshape(*t.shape, *[1] * (x.dim() - 2))


def direct(x: Tensor, dims) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over some axes, kept."""
    mean = x.mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def positions(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


# -- Batch Renormalization: stop-gradients, and buffers -------------------
class BatchRenorm:
    """r and d are constants of the batch, from running statistics."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def correction(self, mean, std):
        own_mean, own_std = (
            t.to(mean).view_as(mean) for t in (self.mean, self.std)
        )
        with torch.no_grad():
            r = (std / own_std).clamp(1 / 1.5, 1.5)
            d = ((mean - own_mean) / own_std).clamp(-0.5, 0.5)
        return r, d

    def __call__(self, m, v, size, weight, bias):
        mean, var = statistics.batch(m, v, size)
        std = (var + EPS).sqrt()
        r, d = self.correction(mean, std)
        return mean, weight * r / std, weight * d + bias

    def oracle(self, x, weight, bias):
        mean, var = direct(x, (0, *positions(x)))
        std = (var + EPS).sqrt()
        r, d = self.correction(mean, std)
        weight, bias = (over_positions(t[None], x) for t in (weight, bias))
        return (((x - mean) / std * r + d) * weight + bias,)


def batch_renorm(channels: int) -> Case:
    rule = BatchRenorm(draw(channels, seed=1), positive(channels, seed=2))
    return Case(
        rule,
        rule.oracle,
        lambda n, c: [positive(c, seed=3), draw(c, seed=4)],
    )


# -- IBN: half of the channels by instance, half by batch -----------------
def half_and_half(m, v, size, weight, bias):
    half = m.shape[1] // 2
    mean, var = (
        torch.cat([own[:, :half], pooled.expand_as(own)[:, half:]], 1)
        for own, pooled in zip((m, v), statistics.batch(m, v, size))
    )
    return mean, weight * (var + EPS).rsqrt(), bias


def half_and_half_oracle(x, weight, bias):
    half = x.shape[1] // 2
    parts = []
    for t, dims in (
        (x[:, :half], positions(x)),
        (x[:, half:], (0, *positions(x))),
    ):
        mean, var = direct(t, dims)
        parts.append((t - mean) / (var + EPS).sqrt())
    weight, bias = (over_positions(t[None], x) for t in (weight, bias))
    return (torch.cat(parts, 1) * weight + bias,)


# -- HyperNorm: an (N, C) affine from a cell that hands its state on ------
def cell(z, h, c, w_z, w_h):
    i, f, o, g = (z @ w_z + h @ w_h).chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def hyper(m, v, size, h, c, w_z, w_h, to_scale, to_bias):
    given = [t.to(m.dtype) for t in (h, c, w_z, w_h, to_scale, to_bias)]
    h, c = cell(m, *given[:4])
    mean, var = statistics.batch(m, v, size)
    scale = (1 + h @ given[4]) * (var + EPS).rsqrt()
    return mean, scale, h @ given[5], h, c


def hyper_oracle(x, h, c, w_z, w_h, to_scale, to_bias):
    h, c = cell(x.flatten(2).mean(-1), h, c, w_z, w_h)
    mean, var = direct(x, (0, *positions(x)))
    scale, bias = (
        over_positions(t, x) for t in (1 + h @ to_scale, h @ to_bias)
    )
    return (x - mean) / (var + EPS).sqrt() * scale + bias, h, c


def hyper_params(n, c):
    width = 5
    return [
        draw(n, width, seed=5, scale=0.5),
        draw(n, width, seed=6, scale=0.5),
        draw(c, 4 * width, seed=7, scale=0.3),
        draw(width, 4 * width, seed=8, scale=0.3),
        draw(width, c, seed=9, scale=0.3),
        draw(width, c, seed=10, scale=0.3),
    ]


# -- Kalman: moments mixed with ones that come in and go out --------------
def kalman(m, v, size, mean_in, var_in, gain, weight, bias):
    mean, var = statistics.batch(m, v, size)
    p = gain.to(m.dtype).sigmoid()
    gap = mean - mean_in
    mixed_var = (1 - p) * var_in + p * var + p * (1 - p) * gap.square()
    mixed_mean = (1 - p) * mean_in + p * mean
    scale = weight * (mixed_var + EPS).rsqrt()
    return mixed_mean, scale, bias, mixed_mean[0], mixed_var[0]


def kalman_oracle(x, mean_in, var_in, gain, weight, bias):
    mean, var = (t.flatten() for t in direct(x, (0, *positions(x))))
    p = gain.sigmoid()
    gap = mean - mean_in
    mixed_var = (1 - p) * var_in + p * var + p * (1 - p) * gap.square()
    mixed_mean = (1 - p) * mean_in + p * mean
    y = (x - over_positions(mixed_mean[None], x)) * over_positions(
        (weight / (mixed_var + EPS).sqrt())[None], x
    ) + over_positions(bias[None], x)
    return y, mixed_mean, mixed_var


def kalman_params(n, c):
    return [
        draw(c, seed=11),
        positive(c, seed=12),
        draw(1, seed=13),
        positive(c, seed=14),
        draw(c, seed=15),
    ]


def cases(channels: int) -> dict[str, Case]:
    """All of them, by name."""
    return {
        'batch renorm': batch_renorm(channels),
        'half and half': Case(
            half_and_half,
            half_and_half_oracle,
            lambda n, c: [positive(c, seed=3), draw(c, seed=4)],
        ),
        'hyper': Case(hyper, hyper_oracle, hyper_params),
        'kalman': Case(kalman, kalman_oracle, kalman_params),
    }


NAMES = tuple(cases(2))
