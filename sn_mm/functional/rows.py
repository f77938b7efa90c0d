# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One autograd function for every normalizer of the family.

A normalizer is a rule: a pure, differentiable function of N x C numbers,

    rule(m, v, size, *params) -> centre, scale, bias[, *extras]

of the rows' means m and biased variances v (N, C) and their length ``size``.
The output is then y = scale * (x - centre) + bias. Sweeps over x know
nothing of the rule, and the rule never sees x:

1. moments of x (a read);
2. the rule;
3. the output (a read and a write), about the row's own mean ``near``, so
   that it does not cancel: y = scale * (x - near) + shift, with shift = bias -
   scale * (centre - near).

Backward is two sweeps about the vector-Jacobian product of the rule, which
is called again there. Only x and, where they are small, its moments are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sn_mm import kernels
from sn_mm.distributed.gather import replaying
from sn_mm.kernels.layout import (
    accumulation_dtype,
    spatial_size,
    widen,
)

from .numbers import numbers_of
from .traced import are_batched, is_traced, normalize_rows_traced

Rule = Callable[..., Sequence[Tensor]]


def normalize_rows(
    x: Tensor,
    rule: Rule,
    *params: Tensor | None,
    backend: str | None = None,
    relu: bool = False,
):
    """y = scale * (x - centre) + bias, of what a rule makes of x's moments.

    Args:
        x: (N, C, *spatial), floating point, N and S may be 0.
        rule: ``rule(m, v, size, *params)`` returns centre, scale and bias,
            which broadcast to (N, C), and any extras. m and v are (N, C),
            in float64 where the device has it. It must be pure, since it is
            called again for the gradient, and take every tensor that is to
            get one from ``params``.
        params: tensors (or None) that are passed on to the rule.
        backend: 'triton', 'native' or 'aten' forces an implementation; see
            :func:`sn_mm.backends`.
        relu: y is max(y, 0), in the same sweeps.

    Returns:
        y, of x's shape, dtype and memory format; or (y, *extras) where the
        rule returns extras, which are differentiable.

    Raises:
        TypeError: if x is no dense floating-point tensor, or a param no
            tensor; if the rule returns no centre, scale and bias, real
            numbers or dense tensors of these, or extras that are no tensors.
        ValueError: if these do not broadcast to (N, C), or are on another
            device; if the rule closes over a tensor that requires a
            gradient; for ``backend``, see :func:`sn_mm.backends`.

    Example:
        >>> import torch
        >>> from sn_mm.functional.statistics import batch
        >>> def batch_norm(m, v, size, weight, bias):
        ...     mean, var = batch(m, v, size)
        ...     return mean, weight * (var + 1e-5).rsqrt(), bias
        >>> x, weight, bias = torch.rand(2, 3, 4, 4), torch.ones(3), None
        >>> y = normalize_rows(x, batch_norm, weight, torch.zeros(3))
        >>> y.shape
        torch.Size([2, 3, 4, 4])
    """
    _check_input(x, params)
    if backend is not None:  # also where nothing is to be chosen
        kernels.check_name(backend)
    if x.layout is not torch.strided:
        return _through_dense(x, rule, params, backend, relu)
    if is_traced(x):
        y, *extras = normalize_rows_traced(x, rule, params, relu)
    elif torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        y, *extras = _apply(x, rule, backend, relu, *params)
    else:
        _, _, (y, _, extras, _) = _normalize(x, rule, backend, relu, params)
    return (y, *extras) if extras else y


def _normalize(x, rule, backend, relu, params):
    """The sweeps, who computes the numbers, and what these return."""
    sweeps = kernels.choose(x, backend) if x.numel() else NoSweeps
    numbers = numbers_of(
        rule,
        sweeps,
        spatial_size(x),
        accumulation_dtype(x.dtype),
        x.device,
    )
    return sweeps, numbers, numbers.normalize(sweeps, x, params, relu)


class _NormalizeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule, backend, relu, *params):
        sweeps, numbers, results = _normalize(x, rule, backend, relu, params)
        y, moments, extras, brought = results
        numbers.hold_statistics()
        ctx.save_for_backward(x, moments, *params, *brought)
        ctx.sweeps, ctx.numbers, ctx.relu = sweeps, numbers, relu
        ctx.num_params = len(params)
        ctx.set_materialize_grads(False)
        return (y, *extras)

    @staticmethod
    def backward(ctx, dy, *d_extras):
        x, moments, *rest = ctx.saved_tensors
        if dy is not None and dy.layout is not torch.strided:
            dy = dy.to_dense()
        params, brought = rest[: ctx.num_params], rest[ctx.num_params :]
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        # second derivatives are wanted, or many gradients in one pass
        if torch.is_grad_enabled() or are_batched((dy, *d_extras)):
            d_x, *d_params = _differentiable_backward(
                ctx, x, params, brought, (dy, *d_extras), needs
            )
        else:
            d_x, d_params = ctx.numbers.differentiate(
                ctx.sweeps,
                dy,
                x,
                moments,
                params,
                brought,
                d_extras,
                needs,
                ctx.relu,
            )
        return (d_x, None, None, None, *d_params)


# Without what torch.func's transforms need, of which none is active here: it
# looks at every argument, in a tenth of a small layer's time.
_apply = super(torch.autograd.Function, _NormalizeRows).apply


class NoSweeps:
    """The sweeps over nothing."""

    name = 'empty'
    factors = kernels.factors

    @staticmethod
    def moments(x: Tensor) -> Tensor:
        """Zeros, where there is nothing to measure."""
        dtype = accumulation_dtype(x.dtype)
        return widen(x.new_zeros(2, *x.shape[:2], dtype=dtype))

    @staticmethod
    def affine(x: Tensor, *factors) -> Tensor:
        """Nothing."""
        return torch.empty_like(x)

    @staticmethod
    def products(dy: Tensor, x: Tensor, *factors) -> Tensor:
        """Sums over nothing."""
        return NoSweeps.moments(x)

    @staticmethod
    def remeasure(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros."""
        return NoSweeps.moments(x), NoSweeps.moments(x)

    @staticmethod
    def combine(dy: Tensor, x: Tensor, *factors) -> Tensor:
        """Nothing."""
        return torch.empty_like(x)


def _differentiable_backward(ctx, x, params, brought, d_outputs, needs):
    """The gradients in plain operations, which autograd follows further."""
    goes_on = torch.is_grad_enabled()
    with torch.enable_grad(), replaying(brought):
        # Views, since a param may be a function of x, or two be the same: a
        # gradient is of the one argument alone.
        x, *params = (
            t.view_as(t) if need else t for t, need in zip((x, *params), needs)
        )
        outputs = normalize_rows_traced(x, ctx.numbers.rule, params, ctx.relu)
    inputs = [t for t, need in zip((x, *params), needs) if need]
    used = [
        (y, dy)
        for y, dy in zip(outputs, d_outputs)
        if dy is not None and y.requires_grad
    ]
    found = iter([None] * len(inputs))
    if used:
        outputs, d_outputs = zip(*used)
        found = iter(
            torch.autograd.grad(
                outputs,
                inputs,
                d_outputs,
                create_graph=goes_on,
                allow_unused=True,
            )
        )
    return [next(found) if need else None for need in needs]


def _check_input(x: Tensor, params: Sequence[Tensor | None]) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(
            f'expected a tensor (N, C, *spatial), got a {type(x).__name__}'
        )
    for i, p in enumerate(params):
        if p is not None and not isinstance(p, Tensor):
            raise TypeError(
                f'param {i} of the rule is a {type(p).__name__}, and no '
                'tensor: constants belong into the rule, as an attribute or '
                'by functools.partial'
            )
    if not x.is_floating_point():
        raise TypeError(
            f'expected a floating-point input, got {x.dtype}; convert it '
            'with .float()'
        )
    if x.dim() < 2:
        raise ValueError(
            f'expected input of shape (N, C, *spatial), got {tuple(x.shape)}'
        )


def _through_dense(x, rule, params, backend, relu):
    """oneDNN's layout, which batch norm takes as well, through a copy."""
    if x.layout is not torch._mkldnn:
        raise TypeError(
            f'expected a dense input, got the layout {x.layout}; convert it '
            'with .to_dense()'
        )
    result = normalize_rows(
        x.to_dense(), rule, *params, backend=backend, relu=relu
    )
    if isinstance(result, tuple):
        return (result[0].to_mkldnn(), *result[1:])
    return result.to_mkldnn()
