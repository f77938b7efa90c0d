# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One autograd function for every normalizer of the family.

1. instance moments of x (a read);
2. a mixing turns them into the moments to normalize with (N x C numbers);
3. y = scale * (x - m) + shift, scale = weight / sqrt(var + eps), shift =
   bias - (mu - m) * scale, centred on the row's own mean m, so that it does
   not cancel (a read and a write).

Only x and the instance moments are kept for backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import passes
from .engines import engine_for
from .mixing import Mixing, State
from .tracing import is_traced, leaves_torch


def normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing: Mixing,
    *params: Tensor,
) -> tuple[Tensor, State]:
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
    if is_traced():
        return composite(x, weight, bias, eps, mixing, *params)
    y, *state = _Normalize.apply(x, weight, bias, eps, mixing, *params)
    return y, tuple(state)


def composite(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing: Mixing,
    *params: Tensor,
) -> tuple[Tensor, State]:
    """:func:`normalize` in plain operations, for compilers and exporters.

    Written for what torch.compile makes of its gradient: x is all of its
    size that is kept, and is read twice, whatever follows the layer.
    """
    ones = (1,) * (x.dim() - 2)
    wide = passes.accumulation_dtype(x.dtype)
    m = x.flatten(2).mean(-1, dtype=wide) if ones else x.to(wide)
    # The gradient through what v is centred on is 0, but a sweep over x.
    centred = x - m.detach().view(*m.shape, *ones)
    v = centred.square()
    if ones:
        v = v.flatten(2).mean(-1)
    moments, size = torch.stack([m, v]), passes.spatial_size(x)
    if not leaves_torch():  # not every runtime computes in float64
        moments = passes.widen(moments)
    state = mixing.collect(moments, size)
    mu, var = mixing.mix(moments, size, state, *params).unbind(0)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -mu * scale
    if bias is not None:
        shift = shift + bias
    # From x itself, and not centred: the partitioner keeps what is computed
    # from a value that a reduction also needed, and inductor stores what has
    # more than four inputs.
    scale = _stored(scale.to(wide)).view(*scale.shape, *ones)
    shift = _stored(shift.to(wide)).view(*shift.shape, *ones)
    y = (x * scale + shift).to(x.dtype)
    return y, tuple(t.detach() for t in state)


def _stored(t: Tensor) -> Tensor:
    """t, not computed anew for every value that it is combined with."""
    if leaves_torch():
        return t
    return torch.as_strided(t, t.shape, t.stride())


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, mixing, *params):
        engine = engine_for(x, mixing)
        y, kept, state = engine.forward(x, weight, bias, eps, mixing, params)
        ctx.save_for_backward(x, kept, weight, bias, *params, *state)
        ctx.engine, ctx.eps, ctx.mixing = engine, eps, mixing
        ctx.num_params = len(params)
        ctx.mark_non_differentiable(*state)
        ctx.set_materialize_grads(False)  # no zeros in place of state's
        return (y, *state)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        x, moments, weight, bias, *rest = ctx.saved_tensors
        if dy is None:  # nobody used y, but other processes may wait
            dy = torch.zeros_like(x)
        params = tuple(rest[: ctx.num_params])
        d_x, d_weight, d_bias, d_params = ctx.engine.backward(
            dy,
            x,
            moments,
            tuple(rest[ctx.num_params :]),
            weight,
            bias,
            ctx.eps,
            ctx.mixing,
            params,
        )
        grads = [
            None if p is None else passes.cast(d, p.dtype)
            for d, p in zip(
                (d_weight, d_bias, *d_params), (weight, bias, *params)
            )
        ]
        return (d_x, *grads[:2], None, None, *grads[2:])
