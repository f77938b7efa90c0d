# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization in C (switch.c), where there is a compiler.

PyTorch has no CPU kernel that takes the moments of a row, or combines two
rows with per-row factors, in one sweep over memory; and the mixing is about
140 small operations there, which cost a layer of a detector more than its
memory does. Here a layer is four calls, and one for its running statistics.
"""

from __future__ import annotations

import ctypes
import threading

import torch
from torch import Tensor

from .. import passes
from ..mixing import Mixing, State
from ..statistics import STATISTICS, Batch, Instance, Running, Statistic
from ..switch import SwitchMixing
from .library import library

_ROW, _SAMPLE, _BATCH, _GIVEN = range(4)
_kept = threading.local()


class _Statistic(ctypes.Structure):
    """``statistic`` of switch.c."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ('kind', 'stride', 'width', 'rows')),
        *((n, ctypes.c_void_p) for n in ('mean', 'var', 'd_mean', 'd_var')),
    ]


class _Layer(ctypes.Structure):
    """``layer`` of switch.c."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ('n', 'c', 'size', 'last')),
        *((n, ctypes.c_int64) for n in ('k', 'groups', 'softmax')),
        *((n, ctypes.c_void_p) for n in ('mean_logits', 'var_logits')),
        *((n, ctypes.c_void_p) for n in ('weight', 'bias')),
        *((n, ctypes.c_double) for n in ('eps', 'spread')),
        ('moments', ctypes.c_void_p),
        ('statistics', _Statistic * len(STATISTICS)),
    ]


def takes(x: Tensor, mixing: Mixing) -> bool:
    """Whether this engine can compute it."""
    return (
        isinstance(mixing, SwitchMixing)
        and x.device.type == 'cpu'
        and x.dtype != torch.float64
        and x.numel() > 0
        and (type(x) is Tensor or type(x.detach()) is Tensor)
        and len(mixing.statistics) <= len(STATISTICS)
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
    keep = passes.worth_keeping(n * c, x)
    moments = _doubles(2, n, c) if keep else _scratch('moments', 2 * n * c)
    pools = [_pool(s, n, c, moments) for s in mixing.statistics]
    given = [_floats(t) for t in (*params, weight, bias)]
    shape = (n, c, size, last)
    layer = _layer(shape, mixing, given, eps, moments, pools)
    _call('collect', layer, data)
    if mixing.synchronized:
        pools = [
            p if p is None else s.complete(p, n * size)
            for s, p in zip(mixing.statistics, pools)
        ]
        layer = _layer(shape, mixing, given, eps, moments, pools)
    out = torch.empty_like(data)
    _call('apply', layer, data, out)
    state = tuple(p for p in pools if p is not None)
    return passes.cast(out, x.dtype), moments if keep else None, state


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
    dy = passes.dense(passes.cast(dy, data.dtype), last)
    (n, c), size = x.shape[:2], passes.spatial_size(x)
    fresh = moments is None
    if fresh:
        moments = _scratch('moments', 2 * n * c)
    pools = mixing.pools(state)
    grads = [
        None if p is None or s.constant else _doubles(2, *p.shape[1:])
        for s, p in zip(mixing.statistics, pools)
    ]
    given = [_floats(t) for t in (*params, weight, bias)]
    shape = (n, c, size, last)
    layer = _layer(shape, mixing, given, eps, moments, pools, grads)
    sums = _scratch('sums', 3 * n * c)
    results = [
        torch.empty(like, dtype=torch.float32)
        for like in (c, c, *(p.shape for p in params))
    ]
    _call('reduce', layer, dy, data, fresh, sums, *results)
    if mixing.synchronized:
        grads = [
            s.average(g, p, moments, size) if s.synchronized else g
            for s, p, g in zip(mixing.statistics, pools, grads)
        ]
        layer = _layer(shape, mixing, given, eps, moments, pools, grads)
    d_x = torch.empty_like(data)
    _call('input_grad', layer, dy, data, sums, d_x)
    d_weight, d_bias, *d_logits = results
    return passes.cast(d_x, x.dtype), d_weight, d_bias, d_logits


def moves(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    pooled: Tensor,
    momentum: float | None,
) -> bool:
    """Whether :func:`move` can compute it."""
    return (
        momentum is not None
        and _is_plain(mean, torch.float32)
        and _is_plain(var, torch.float32)
        and _is_plain(count, torch.int64)
        and _is_plain(pooled, torch.float64)
        and library() is not None
    )


def move(
    mean: Tensor, var: Tensor, count: Tensor, pooled: Tensor, momentum: float
) -> None:
    """See :mod:`sn_mm.functional.running`.

    PyTorch's eight operations take 0.15 ms when the caches are full of x.
    """
    addresses = [t.data_ptr() for t in (mean, var, count, pooled)]
    library().sn_move(*addresses, *pooled.shape[::2], momentum)


def _is_plain(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether C can read t as an array."""
    return (
        type(t) is Tensor
        and t.dtype is dtype
        and t.device.type == 'cpu'
        and t.is_contiguous()
    )


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """x in float32 without gaps, and whether channels are last in memory."""
    last = passes.channels_last(x)
    return passes.dense(passes.cast(x, torch.float32), last), last


def _doubles(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)


def _scratch(name: str, count: int) -> Tensor:
    """At least ``count`` doubles of this thread, to be used again.

    Large fresh memory costs a page fault every 4 KB, a third of what is then
    computed in it.
    """
    kept = getattr(_kept, name, None)
    if kept is None or kept.numel() < count:
        kept = _doubles(count)
        setattr(_kept, name, kept)
    return kept


def _pool(s: Statistic, n: int, c: int, moments: Tensor) -> Tensor | None:
    """Where the pooled moments of this process go; given ones as they are."""
    if isinstance(s, Instance):
        return None
    if s.constant:
        return s.pool(moments, 1)
    return _doubles(2, *s.pooled_shape(n, c))


def _kind(s: Statistic) -> int:
    if isinstance(s, Instance):
        return _ROW
    if isinstance(s, Running):
        return _GIVEN
    return _BATCH if isinstance(s, Batch) else _SAMPLE


def _layer(
    shape: tuple[int, int, int, bool],
    mixing: SwitchMixing,
    given: list[Tensor | None],
    eps: float,
    moments: Tensor,
    pools: list[Tensor | None],
    grads: list[Tensor | None] | None = None,
) -> _Layer:
    """What C needs to know: addresses, of tensors that the caller keeps.

    Args:
        shape: N, C, S, and whether channels are last in memory.
        given: ratio logits of means and of variances, weight, bias.
        pools, grads: (2 or more, rows, columns), by statistic.
    """
    n, c, size, last = shape
    logits = given[0]
    return _Layer(
        *(n, c, size, last, logits.shape[-1]),
        logits.shape[0] if logits.dim() > 1 else 1,
        mixing.softmax,
        *map(_address, given),
        *(eps, mixing.spread(size), moments.data_ptr()),
        tuple(
            _entry(s, n, c, pool, grad)
            for s, pool, grad in zip(
                mixing.statistics, pools, grads or [None] * len(pools)
            )
        ),
    )


def _entry(
    s: Statistic, n: int, c: int, pool: Tensor | None, grad: Tensor | None
) -> tuple:
    """The fields of a ``_Statistic``."""
    if pool is None:
        return _ROW, c, 1, 1
    _, samples, columns = pool.shape
    kind, width = _kind(s), c // columns
    # what is synchronized comes divided by the rows of all processes
    rows = 1 if s.synchronized else n if kind == _BATCH else width
    return (
        *(kind, columns if samples > 1 else 0, width, rows),
        *_halves(pool),
        *(() if grad is None else _halves(grad)),
    )


def _halves(t: Tensor) -> tuple[int, int]:
    """Addresses of t[0] and t[1], doubles."""
    start = t.data_ptr()
    return start, start + 8 * t.shape[1] * t.shape[2]


def _floats(t: Tensor | None) -> Tensor | None:
    if t is None or (t.dtype is torch.float32 and t.is_contiguous()):
        return t
    return t.detach().float().contiguous()


def _address(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _call(name: str, layer: _Layer, *args: Tensor | bool) -> None:
    """Call sn_<name>; tensors, contiguous ones, go as their addresses."""
    getattr(library(), f'sn_{name}')(
        ctypes.byref(layer),
        *(a.data_ptr() if isinstance(a, Tensor) else a for a in args),
        torch.get_num_threads(),
    )
