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
from .mixing import Mixing, State


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
    if torch.jit.is_tracing() or _is_compiling():
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
    """:func:`normalize` in plain operations, for compilers and exporters."""
    wide = x.to(passes.accumulation_dtype(x.dtype)).flatten(2)
    m = wide.mean(-1)
    v = (wide - m.unsqueeze(-1)).square().mean(-1)
    moments, size = torch.stack([m, v]), wide.shape[-1]
    state = mixing.collect(moments, size)
    mu, var = mixing.mix(moments, size, state, *params).unbind(0)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = (m - mu) * scale
    if bias is not None:
        shift = shift + bias
    y = (wide - m.unsqueeze(-1)) * scale.unsqueeze(-1) + shift.unsqueeze(-1)
    return y.view(x.shape).to(x.dtype), tuple(t.detach() for t in state)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, mixing, *params):
        moments, size = _moments(x), passes.spatial_size(x)
        state = mixing.collect(moments, size)
        mixed = mixing.mix(moments, size, state, *params).expand_as(moments)
        if x.numel():
            y = passes.apply(x, moments[0], mixed, weight, bias, eps)
        else:
            y = torch.empty_like(x)
        kept = moments if _worth_keeping(moments, x) else None
        ctx.save_for_backward(x, kept, weight, bias, *params, *state)
        ctx.eps, ctx.mixing, ctx.num_params = eps, mixing, len(params)
        ctx.mark_non_differentiable(*state)
        return (y, *state)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        x, moments, weight, bias, *rest = ctx.saved_tensors
        params = tuple(rest[: ctx.num_params])
        state = tuple(rest[ctx.num_params :])
        if moments is None:
            moments = _moments(x)
        m, size, eps = moments[0], passes.spatial_size(x), ctx.eps
        mixed = ctx.mixing.mix(moments, size, state, *params)
        mixed = mixed.expand_as(moments)
        sums = d_mixed = torch.zeros_like(moments)
        if x.numel():
            sums, d_mixed = passes.reduce(dy, x, m, mixed, weight, eps)
        # Also for an empty batch: other processes may wait in there.
        d_moments, *d_params = ctx.mixing.backward(
            moments, size, state, params, d_mixed
        )
        d_x = None
        if ctx.needs_input_grad[0]:
            if x.numel():
                d_x = passes.input_grad(
                    dy, x, m, mixed[1], weight, eps, d_moments
                )
            else:
                d_x = torch.empty_like(x)
        d_bias, d_weight = sums.sum(1)
        grads = [
            None if p is None else d.to(p.dtype)
            for d, p in zip(
                (d_weight, d_bias, *d_params), (weight, bias, *params)
            )
        ]
        return (d_x, *grads[:2], None, None, *grads[2:])


def _moments(x: Tensor) -> Tensor:
    """(2, N, C) instance moments, zeros where there is nothing."""
    if x.numel():
        return passes.instance_moments(x)
    return passes.widen(x.new_zeros(2, *x.shape[:2], dtype=torch.float32))


def _worth_keeping(moments: Tensor, x: Tensor) -> bool:
    """Whether the moments are small beside x; else they are recomputed.

    Rows of a 7 x 7 RoI feature are so short that their moments would add 8%
    to what is kept for backward.
    """
    kept = moments.numel() * moments.element_size()
    return kept <= 0.02 * x.numel() * x.element_size() or not x.numel()


def _is_compiling() -> bool:
    compiler = getattr(torch, 'compiler', None)
    if hasattr(compiler, 'is_compiling'):
        return compiler.is_compiling()
    return torch._dynamo.is_compiling()
