# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization in Triton (triton_kernels.py), on a GPU.

Three launches forward and three backward, besides the softmax of the ratios,
in either memory format: nothing is copied.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import passes
from ..mixing import Mixing, State
from ..statistics import Batch, Group, Instance, Layer, Statistic
from ..switch import SwitchMixing
from . import plain

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_CHANNELS = 64  # of which a program sums numbers
_TILE = 2048  # values at a time
_PROGRAMS = 1024  # that keep every multiprocessor busy
_MOST_SPLITS = 64  # of a row, merged one after the other
_KINDS = (Instance, Layer, Group, Batch)  # IN, LN, GN and BN of the kernels
_logger = logging.getLogger(__name__)


def takes(x: Tensor, mixing: Mixing) -> bool:
    """Whether this engine can compute it."""
    return (
        x.is_cuda
        and isinstance(mixing, SwitchMixing)
        and x.dtype in _DTYPES
        and x.numel() > 0
        and type(x.detach()) is Tensor
        and _distinct(mixing.statistics)
        and _kernels() is not None
        and _works(x.device)
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
    plan = _plan(x)
    (n, c), size = x.shape[:2], passes.spatial_size(x)
    moments, pools = _collect(plan, mixing)
    pools = [
        p if p is None else s.complete(p, n * size)
        for s, p in zip(mixing.statistics, pools)
    ]
    ratios = mixing.ratios(params, size, torch.float64).contiguous()
    slots = _slots(mixing, pools, moments)
    y = torch.empty_like(plan.x)
    _kernels().apply_kernel[plan.whole](
        plan.x,
        y,
        moments,
        *slots.tensors,
        ratios,
        *(_or(weight, moments), _or(bias, moments)),
        *(n, c, size, *plan.strides, slots.groups, _ratio_groups(ratios), eps),
        K=len(pools),
        **slots.places,
        WEIGHT=weight is not None,
        BIAS=bias is not None,
        ROWS=plan.rows,
        BLOCK=plan.block,
    )
    kept = moments if passes.worth_keeping(n * c, x) else None
    state = tuple(p for p in pools if p is not None)
    return torch.ops.aten._unsafe_view(y, x.shape), kept, state


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
    plan = _plan(x)
    dy = passes.dense(dy.to(plan.x.dtype), passes.channels_last(plan.x))
    (n, c), size = x.shape[:2], passes.spatial_size(x)
    if moments is None:
        moments, _ = _collect(plan, mixing)
    ratios = mixing.ratios(params, size, torch.float64).contiguous()
    slots = _slots(mixing, mixing.pools(state), moments)
    count, groups = len(mixing.statistics), _ratio_groups(ratios)
    weight_or, given = _or(weight, moments), weight is not None

    parts = moments.new_empty(plan.splits[1], 2, n, c)
    _kernels().reduce_kernel[plan.splits](
        *(dy, plan.x, moments, parts, c, size, *plan.strides, n * c),
        plan.per_split,
        ROWS=plan.rows,
        BLOCK=plan.block,
    )
    sums = moments.new_empty(3, n, c)
    d_affine = moments.new_empty(2, c, dtype=torch.float32)
    by_channel = moments.new_empty(2, count, c)
    grads = [
        None if p is None or s.constant else torch.empty_like(p[:2])
        for s, p in zip(mixing.statistics, mixing.pools(state))
    ]
    _kernels().sums_kernel[_number_programs(slots, n, c)](
        *(parts, moments, *slots.tensors, ratios, weight_or, sums, d_affine),
        *(by_channel, *_slots(mixing, grads, moments).tensors),
        *(n, c, slots.groups, groups, eps),
        SPLITS=plan.splits[1],
        K=count,
        **slots.places,
        BATCH=slots.batch,
        WEIGHT=given,
        CHANNELS=_CHANNELS,
    )
    shares = [
        g if g is None else s.average(g, p, moments, size).contiguous()
        for s, p, g in zip(mixing.statistics, mixing.pools(state), grads)
    ]
    dx = torch.empty_like(plan.x)
    _kernels().input_grad_kernel[plan.whole](
        *(dy, plan.x, dx, moments, *slots.tensors, ratios, weight_or, sums),
        *_slots(mixing, shares, moments).tensors,
        *(n, c, size, *plan.strides, slots.groups, groups),
        mixing.spread(size),
        K=count,
        **slots.places,
        BATCH=slots.batch,
        WEIGHT=given,
        ROWS=plan.rows,
        BLOCK=plan.block,
    )
    d_ratios = by_channel.view(2, count, groups, -1).sum(-1).transpose(1, 2)
    d_params = mixing.logit_grad(ratios, d_ratios.reshape(ratios.shape))
    d_params = d_params.to(params[0].dtype)
    d_x = torch.ops.aten._unsafe_view(dx, x.shape)
    return d_x, d_affine[0], d_affine[1], list(d_params.unbind(0))


class _Plan(NamedTuple):
    """How the kernels walk over an input.

    Attributes:
        x: the input, dense in either memory format.
        strides: of channels and of positions.
        rows, block: channels and positions of a tile.
        whole: grid of the kernels that write.
        splits: grid of those that sum; splits[1] programs share a row.
        per_split: positions of each.
    """

    x: Tensor
    strides: tuple[int, int]
    rows: int
    block: int
    whole: tuple[int, int]
    splits: tuple[int, int]
    per_split: int


def _plan(x: Tensor) -> _Plan:
    (n, c), size = x.shape[:2], passes.spatial_size(x)
    if passes.channels_last(x):
        strides, rows = (1, c), min(_power(c), 64)
        block = min(_power(size), _TILE // rows)
    else:
        x, strides = x.contiguous(), (size, 1)
        block = min(_power(size), _TILE)
        rows = min(_power(c), max(1, _TILE // block))
    tiles = n * -(-c // rows)
    blocks = -(-size // block)
    wanted = min(blocks, _MOST_SPLITS, max(1, _PROGRAMS // tiles))
    per_split = -(-blocks // wanted) * block
    return _Plan(
        x,
        strides,
        rows,
        block,
        (tiles, blocks),
        (tiles, -(-size // per_split)),
        per_split,
    )


def _power(value: int) -> int:
    """The next power of two."""
    return 1 << (value - 1).bit_length()


def _collect(
    plan: _Plan, mixing: SwitchMixing
) -> tuple[Tensor, list[Tensor | None]]:
    """Moments (2, N, C) of rows, and pooled ones of this process."""
    (n, c), size = plan.x.shape[:2], passes.spatial_size(plan.x)
    new = functools.partial(
        torch.empty, dtype=torch.float64, device=plan.x.device
    )
    parts, moments = new(plan.splits[1], 2, n, c), new(2, n, c)
    _kernels().moments_kernel[plan.splits](
        *(plan.x, parts, c, size, *plan.strides, n * c, plan.per_split),
        ROWS=plan.rows,
        BLOCK=plan.block,
    )
    pools = [_pool(s, moments, size) for s in mixing.statistics]
    slots = _slots(mixing, pools, moments)
    places = dict(slots.places, BN=slots.batch)
    del places['IN']
    _kernels().pool_kernel[_number_programs(slots, n, c)](
        *(parts, moments, *slots.tensors, n, c, size, plan.per_split),
        *(mixing.spread(size), slots.groups),
        SPLITS=plan.splits[1],
        **places,
        CHANNELS=_CHANNELS,
    )
    return moments, pools


def _pool(s: Statistic, moments: Tensor, size: int) -> Tensor | None:
    """Where the pooled moments of this process go; given ones as they are."""
    if isinstance(s, Instance):
        return None
    if s.constant:
        return s.pool(moments, size).contiguous()
    return moments.new_empty(2, *s.pooled_shape(*moments.shape[1:]))


class _Slots(NamedTuple):
    """Statistics as the kernels take them.

    Attributes:
        tensors: of LN, GN and BN; any tensor in place of one that is not
            mixed.
        places: IN, LN, GN and BN's among the ratios, or -1.
        groups: of GN, or 1.
        batch: whether BN's moments are those of the batch.
    """

    tensors: tuple[Tensor, Tensor, Tensor]
    places: dict[str, int]
    groups: int
    batch: bool


def _slots(
    mixing: SwitchMixing, values: Sequence[Tensor | None], other: Tensor
) -> _Slots:
    tensors, places = [], {}
    groups, batch = 1, False
    for name, kind in zip(('IN', 'LN', 'GN', 'BN'), _KINDS):
        places[name] = -1
        tensor = other
        for k, (s, value) in enumerate(zip(mixing.statistics, values)):
            if isinstance(s, kind):
                places[name] = k
                tensor = _or(value, other)
                if kind is Group:
                    groups = s.groups
                if kind is Batch:
                    batch = not s.constant
        if kind is not Instance:
            tensors.append(tensor)
    return _Slots(tuple(tensors), places, groups, batch)


def _distinct(statistics: Sequence[Statistic]) -> bool:
    kinds = [k for s in statistics for k in _KINDS if isinstance(s, k)]
    return len(kinds) == len(set(kinds)) == len(statistics)


def _number_programs(slots: _Slots, n: int, c: int) -> tuple[int]:
    programs = -(-c // _CHANNELS)
    if slots.places['LN'] >= 0:
        programs += n
    if slots.places['GN'] >= 0:
        programs += n * slots.groups
    return (programs,)


def _ratio_groups(ratios: Tensor) -> int:
    return ratios.shape[1] if ratios.dim() == 3 else 1


def _or(t: Tensor | None, other: Tensor) -> Tensor:
    return other if t is None else t.detach().contiguous()


@functools.cache
def _kernels():
    """The kernels, or None: no Triton 3, or SN_MM_NATIVE=0."""
    if os.environ.get('SN_MM_NATIVE', '1') == '0':
        return None
    try:
        version = importlib.metadata.version('triton')
    except importlib.metadata.PackageNotFoundError:
        version = '0'
    if int(version.split('.')[0]) < 3:
        _logger.info('no Triton 3, PyTorch kernels instead')
        return None
    from . import triton_kernels

    return triton_kernels


@functools.cache
def _works(device: torch.device) -> bool:
    """Whether the kernels compile there, and agree with PyTorch's.

    Seen on a small input, once a process: Triton needs a C compiler at run
    time, and does not know every GPU. A training run should not end there.
    """
    try:
        ours = _small_step(forward, backward, device)
        theirs = _small_step(plain.forward, plain.backward, device)
        close = [
            torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-4)
            for a, b in zip(ours, theirs)
        ]
        problem = None if all(close) else "their results differ from PyTorch's"
    except Exception as error:  # whatever a compiler raises
        problem = f'{type(error).__name__}: {error}'
    if problem is not None:
        _logger.warning(
            "SN on %s takes PyTorch's kernels, which is slower, because its "
            'Triton kernels do not work there: %s',
            *(device, problem),
        )
    return problem is None


def _small_step(forward, backward, device: torch.device) -> list[Tensor]:
    """Output and gradients of one engine."""
    gen = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(2, 6, 5, 7, generator=gen) for _ in range(2))
    x, dy = x.to(device), dy.to(device)
    weight, bias = x.new_tensor([[1.0, 2, 3, 4, 5, 6], [0, 1, 0, 1, 0, 1]])
    params = tuple(x.new_tensor([[1.0, 0.5, 0.2], [0.3, 1, 0.4]]))
    mixing = SwitchMixing((Instance(), Layer(), Batch()))
    y, kept, state = forward(x, weight, bias, 1e-5, mixing, params)
    d_x, d_weight, d_bias, d_params = backward(
        *(dy, x, kept, state, weight, bias, 1e-5, mixing, params)
    )
    return [y, d_x, d_weight, d_bias, *d_params]
