# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The autograd function's twin in plain operations.

For whoever follows operations one by one: compilers, exporters, transforms of
functions, forward-mode and second derivatives, tensors without data.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sn_mm.kernels.layout import accumulation_dtype, spatial_size, widen

from .numbers import checked_results

_compiler = getattr(torch, 'compiler', None)  # from torch 2.1 on
_is_compiling = getattr(_compiler, 'is_compiling', None) or (
    lambda: torch._dynamo.is_compiling()
)
_is_exporting = getattr(_compiler, 'is_exporting', lambda: False)
# half of torch.jit.is_tracing's time; no compiler can follow it
_is_tracing = torch._C._is_tracing
# the transforms of torch.func that are active, innermost last, or None
_transforms = torch._C._functorch.peek_interpreter_stack
# autograd's batches of gradients, which are no transform
_is_batched = getattr(  # from torch 2.2 on
    torch._C._functorch, 'is_legacy_batchedtensor', lambda t: False
)


def is_traced(x: Tensor) -> bool:
    """Whether somebody follows the operations on x, not just their result."""
    return (
        is_recorded()
        or _transforms() is not None
        or forward_ad._current_level >= 0
        or x.is_meta
        or not (type(x) is Tensor or type(x.detach()) is Tensor)
    )


def are_batched(gradients: Iterable[Tensor | None]) -> bool:
    """Whether each stands for many, as with ``is_grads_batched``."""
    for t in gradients:
        if t is not None and _is_batched(t):
            return True
    return False


def is_recorded() -> bool:
    """Whether a compiler or an exporter records operations."""
    return _is_compiling() or _is_tracing()


def leaves_torch() -> bool:
    """Whether what is recorded goes to a file, for other runtimes to read."""
    return _is_exporting() or torch.jit.is_tracing()


def in_backward() -> bool:
    """Whether a backward is under way: an activation checkpoint recomputes."""
    return not is_recorded() and torch._C._current_graph_task_id() != -1


def stored(t: Tensor) -> Tensor:
    """t, which a compiled graph keeps for its backward as it is now.

    A graph may as well keep what t was computed from and compute it anew. If
    that is a buffer, which the forward moves meanwhile, gradients are wrong.
    What is reduced to less than a quarter is never computed anew.
    """
    return t.expand(8, *t.shape).amax(0) if is_recorded() else t


def inverse_root(t: Tensor) -> Tensor:
    """1 / sqrt(t).

    In files these are two operations. onnxruntime (1.31) turns an rsqrt times
    a weight into weight / sqrt, and then misses a weight that torch wrote once
    for several layers with equal ones, as new and frozen layers are.
    """
    return t.sqrt().reciprocal() if leaves_torch() else t.rsqrt()


def normalize_rows_traced(
    x: Tensor, rule, params, relu: bool = False
) -> tuple[Tensor, ...]:
    """(y, *extras), as :func:`sn_mm.functional.normalize_rows`."""
    ones = (1,) * (x.dim() - 2)
    compiled, exported = is_recorded(), leaves_torch()
    wide = accumulation_dtype(x.dtype)
    size = spatial_size(x)
    # of no positions the sum, 0, whose gradient is no NaN
    average = torch.sum if type(size) is int and size == 0 else torch.mean
    m = average(x.flatten(2), -1, dtype=wide) if ones else x.to(wide)
    # Written for what torch.compile makes of its gradient: that through what
    # v is centred on is 0, but costs a sweep. Second derivatives need it.
    near = m.detach() if compiled else m
    centred = x - near.view(*near.shape, *ones)
    v = centred.square()
    if ones:
        v = average(v.flatten(2), -1)
    rows = (m, v) if exported else (widen(m), widen(v))
    results = rule(*rows, size, *params)
    if not compiled:
        results = checked_results(rule, results, rows[0])
    results = [
        t if isinstance(t, Tensor) else m.new_full((1, 1), t) for t in results
    ]
    centre, scale, bias, *extras = results
    if compiled:
        # From x itself, and not centred: the partitioner keeps what is
        # computed from a value that a reduction also needed, and inductor
        # stores what has more than four inputs.
        shift, values = bias - centre * scale, x
    else:
        shift, values = bias - (centre - rows[0]) * scale, centred
    scale, shift = (
        _over_positions(t.to(wide), ones, compiled and not exported)
        for t in (scale, shift)
    )
    y = values * scale + shift
    return (torch.relu(y) if relu else y).to(x.dtype), *extras


def _over_positions(t: Tensor, ones: tuple[int, ...], store: bool) -> Tensor:
    """Numbers of rows, shaped to broadcast over positions.

    Args:
        store: force inductor to store them instead of recomputing them for
            each element.
    """
    t = t.reshape((1,) * (2 - t.dim()) + tuple(t.shape))
    if store:
        t = _Stored.apply(t)
    return t.reshape(*t.shape, *ones)


class _Stored(torch.autograd.Function):
    """The identity, whose output inductor has in memory.

    The gradient is written out: in that of ``as_strided``, inductor may read
    other memory than what it has just computed.
    """

    @staticmethod
    def forward(ctx, t: Tensor) -> Tensor:
        return torch.as_strided(t, t.shape, t.stride())

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tensor:
        return dy
