# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization in C (switch.c), where there is a compiler.

PyTorch has no CPU kernel that takes the moments of a row, or combines two
rows with per-row factors, in one sweep over memory; and the mixing is about
140 small operations there, which cost a layer of a detector more than its
memory does. Here a layer is four calls.
"""

from __future__ import annotations

import ctypes
import math
import threading

import torch
from torch import Tensor

from .. import passes
from ..mixing import Mixing, State
from ..statistics import Batch, Instance, Running, Statistic
from ..switch import SwitchMixing
from .library import library

_ROW, _SAMPLE, _BATCH, _GIVEN = range(4)
_scratch = threading.local()


class _Statistic(ctypes.Structure):
    """``statistic`` of switch.c."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ('kind', 'stride', 'width')),
        *((n, ctypes.c_void_p) for n in ('mean', 'var', 'd_mean', 'd_var')),
    ]


def takes(x: Tensor, mixing: Mixing) -> bool:
    """Whether this engine can compute it."""
    return (
        isinstance(mixing, SwitchMixing)
        and x.device.type == 'cpu'
        and x.dtype != torch.float64
        and x.numel() > 0
        and type(x.detach()) is Tensor
        and library() is not None
    )


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing: SwitchMixing,
    params: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor | None, State]:
    """See :mod:`sn_mm.functional.engines`."""
    data, last = _dense(x)
    (n, c), size = x.shape[:2], passes.spatial_size(x)
    shape = (n, c, size, last)
    keep = passes.worth_keeping(n * c, x)
    moments = _doubles('moments', 2, n, c, fresh=keep)
    pools = [_pool(s, moments, size) for s in mixing.statistics]
    _call(
        'collect',
        data,
        *(*shape, mixing.spread(size)),
        *_table(mixing, pools, c),
        moments,
    )
    pools = [
        p if p is None else s.complete(p, n * size)
        for s, p in zip(mixing.statistics, pools)
    ]
    out = torch.empty_like(data)
    _call(
        'apply',
        data,
        *(*shape, moments),
        *_table(mixing, pools, c),
        *_ratios(mixing.ratios(params, size, torch.float64)),
        *(_floats(weight), _floats(bias), eps),
        out,
    )
    state = tuple(p for p in pools if p is not None)
    return out.to(x.dtype), moments if keep else None, state


def backward(
    dy: Tensor,
    x: Tensor,
    moments: Tensor | None,
    state: State,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing: SwitchMixing,
    params: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """See :mod:`sn_mm.functional.engines`."""
    data, last = _dense(x)
    dy = passes.dense(dy.to(data.dtype), last)
    (n, c), size = x.shape[:2], passes.spatial_size(x)
    fresh = moments is None
    if fresh:
        moments = _doubles('moments', 2, n, c)
    pools, weight = mixing.pools(state), _floats(weight)
    ratios = mixing.ratios(params, size, torch.float64)
    grads = [
        None if p is None or s.constant else torch.empty_like(p[:2])
        for s, p in zip(mixing.statistics, pools)
    ]
    sums = _doubles('sums', 3, n, c)
    d_weight, d_bias = d_affine = data.new_empty(2, c)
    d_ratios = torch.empty_like(ratios)
    shape, spread = (n, c, size, last), mixing.spread(size)
    _call(
        'reduce',
        *(dy, data, *shape, spread, moments, fresh),
        *_table(mixing, pools, c, grads),
        *_ratios(ratios),
        *(weight, eps, sums, d_affine, d_ratios),
    )
    shares = [
        g if g is None else s.average(g, p, moments, size)
        for s, p, g in zip(mixing.statistics, pools, grads)
    ]
    d_x = torch.empty_like(data)
    _call(
        'input_grad',
        *(dy, data, *shape, spread, moments),
        *_table(mixing, pools, c, shares),
        *_ratios(ratios),
        *(weight, sums, d_x),
    )
    d_params = mixing.logit_grad(ratios, d_ratios).to(params[0].dtype)
    return d_x.to(x.dtype), d_weight, d_bias, list(d_params.unbind(0))


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """x in float32 without gaps, and whether channels are last in memory."""
    last = passes.channels_last(x)
    return passes.dense(x.float(), last), last


def _doubles(name: str, *shape: int, fresh: bool = False) -> Tensor:
    """An uninitialized tensor: fresh, or this thread's scratch ``name``.

    Scratch is used again: large fresh memory costs a page fault every 4 KB,
    a third of what is then computed in it.
    """
    if fresh:
        return torch.empty(shape, dtype=torch.float64)
    kept, count = getattr(_scratch, name, None), math.prod(shape)
    if kept is None or kept.numel() < count:
        kept = torch.empty(count, dtype=torch.float64)
        setattr(_scratch, name, kept)
    return kept[:count].view(shape)


def _pool(s: Statistic, moments: Tensor, size: int) -> Tensor | None:
    """Where the pooled moments of this process go; given ones as they are."""
    if isinstance(s, Instance):
        return None
    if s.constant:
        return s.pool(moments, size)
    return moments.new_empty(2, *s.pooled_shape(*moments.shape[1:]))


def _kind(s: Statistic) -> int:
    if isinstance(s, Instance):
        return _ROW
    if isinstance(s, Running):
        return _GIVEN
    return _BATCH if isinstance(s, Batch) else _SAMPLE


def _table(
    mixing: SwitchMixing,
    pools: list[Tensor | None],
    channels: int,
    grads: list[Tensor | None] | None = None,
) -> tuple[ctypes.Array, int]:
    """Statistics for C; pools and grads are (2 or more, rows, columns)."""
    count = len(pools)
    table = (_Statistic * count)()
    for entry, s, pool, grad in zip(
        table, mixing.statistics, pools, grads or [None] * count
    ):
        entry.kind, entry.stride, entry.width = _kind(s), channels, 1
        if pool is not None:
            columns = pool.shape[2]
            entry.stride = columns if pool.shape[1] > 1 else 0
            entry.width = channels // columns
            entry.mean, entry.var = _halves(pool)
        if grad is not None:
            entry.d_mean, entry.d_var = _halves(grad)
    return table, count


def _halves(t: Tensor) -> tuple[int, int]:
    """Addresses of t[0] and t[1], doubles."""
    start = t.data_ptr()
    return start, start + 8 * t.shape[1] * t.shape[2]


def _ratios(ratios: Tensor) -> tuple[Tensor, int]:
    """Ratios (2, K) or (2, G, K) and G."""
    return ratios.contiguous(), ratios.shape[1] if ratios.dim() == 3 else 1


def _floats(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach().float().contiguous()


def _call(name: str, *args) -> None:
    """Call sn_<name>; tensors, contiguous ones, go as their addresses."""
    getattr(library(), f'sn_{name}')(
        *(a.data_ptr() if isinstance(a, Tensor) else a for a in args),
        torch.get_num_threads(),
    )
