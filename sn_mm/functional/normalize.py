# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One autograd function for every normalizer of the family.

1. instance moments of x (a read);
2. a mixing turns them into the moments to normalize with (N x C numbers);
3. y = scale * x + shift, scale = weight / sqrt(var + eps), shift = bias -
   mu * scale (a read and a write).

Only x and the instance moments are kept for backward.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import passes
from .mixing import Mixing, State


def normalize(x: Tensor, weight: Tensor | None, bias: Tensor | None,
              eps: float, mixing: Mixing,
              *params: Tensor) -> tuple[Tensor, State]:
    """Normalize x with the moments that ``mixing`` makes of its own.

    Args:
        x: (N, C, *spatial), floating point; may be empty.
        weight, bias: (C,) affine parameters or None.
        eps: added to the mixed variance, inside the root.
        mixing: step 2.
        params: the learned parameters of the mixing.

    Returns:
        y, shaped, typed and laid out like x, and the mixing's batch
        statistics, detached.
    """
    if torch.jit.is_tracing() or _is_compiling():
        return composite(x, weight, bias, eps, mixing, *params)
    y, *state = _Normalize.apply(x, weight, bias, eps, mixing, *params)
    return y, tuple(state)


def composite(x: Tensor, weight: Tensor | None, bias: Tensor | None,
              eps: float, mixing: Mixing,
              *params: Tensor) -> tuple[Tensor, State]:
    """:func:`normalize` in plain operations, for compilers and exporters."""
    wide = x.to(passes.accumulation_dtype(x.dtype)).flatten(2)
    m = wide.mean(-1)
    v = (wide - m.unsqueeze(-1)).square().mean(-1)
    size = wide.shape[-1]
    state = mixing.collect(m, v, size)
    mu, var = mixing.mix(m, v, size, state, *params)
    scale, shift = _scale_shift(mu - m, var, weight, bias, eps)
    y = (wide - m.unsqueeze(-1)) * scale.unsqueeze(-1) + shift.unsqueeze(-1)
    return y.view(x.shape).to(x.dtype), tuple(t.detach() for t in state)


class _Normalize(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, eps, mixing, *params):
        size = passes.spatial_size(x)
        m, v = _moments(x)
        state = mixing.collect(m, v, size)
        mu, var = mixing.mix(m, v, size, state, *params)
        scale, shift = (
            t.expand_as(m) for t in _scale_shift(mu, var, weight, bias, eps))
        acc = passes.accumulation_dtype(x.dtype)
        if x.numel():
            y = passes.affine(x, scale.to(acc), shift.to(acc))
        else:
            y = torch.empty_like(x)
        ctx.save_for_backward(
            x, m.to(acc), v.to(acc), weight, bias, *params, *state)
        ctx.eps, ctx.mixing, ctx.split = eps, mixing, 5 + len(params)
        ctx.mark_non_differentiable(*state)
        return (y, *state)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        x, m, v, weight, bias, *rest = ctx.saved_tensors
        params, state = rest[:ctx.split - 5], tuple(rest[ctx.split - 5:])
        size, acc = passes.spatial_size(x), m.dtype
        s0, s1 = _sums(dy, x, m)
        m, v = _widen(m), _widen(v)
        mu, var = ctx.mixing.mix(m, v, size, state, *params)
        rstd = (var + ctx.eps).rsqrt().expand_as(m)
        scale = rstd if weight is None else rstd * weight
        # d loss / d rstd, but for the factor weight
        s1 = s1 + (m - mu) * s0
        d_mu, d_var = -scale * s0, -0.5 * scale * rstd.square() * s1
        d_m, d_v, *d_params = ctx.mixing.backward(
            m, v, size, state, tuple(params), d_mu, d_var)
        d_x = torch.empty_like(x)
        if x.numel() and ctx.needs_input_grad[0]:
            d_x = passes.input_grad(
                dy, x, m.to(acc), scale.to(acc), (2 * d_v / size).to(acc),
                (d_m / size).to(acc))
        d_weight = None if weight is None else (s1 * rstd).sum(0)
        d_bias = None if bias is None else s0.sum(0)
        return (d_x, _as(d_weight, weight), _as(d_bias, bias), None, None,
                *(_as(d, p) for d, p in zip(d_params, params)))


def _widen(t: Tensor) -> Tensor:
    """float64 for the N x C numbers, so that a large mean loses no digits."""
    return t.double() if t.device.type != 'mps' else t


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel():
        return tuple(_widen(t) for t in passes.instance_moments(x))
    zeros = _widen(x.new_zeros(x.shape[:2], dtype=torch.float32))
    return zeros, zeros


def _sums(dy: Tensor, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel():
        return tuple(_widen(t) for t in passes.grad_sums(dy, x, m))
    zeros = _widen(torch.zeros_like(m))
    return zeros, zeros


def _scale_shift(mu: Tensor, var: Tensor, weight: Tensor | None,
                 bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mu * scale
    return scale, shift if bias is None else shift + bias


def _as(grad: Tensor | None, like: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.to(like.dtype)


def _is_compiling() -> bool:
    compiler = getattr(torch, 'compiler', None)
    if hasattr(compiler, 'is_compiling'):
        return compiler.is_compiling()
    return torch._dynamo.is_compiling()
