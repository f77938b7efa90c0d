# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of Switchable Normalization on a GPU.

Two launches forward and three backward, and one for running statistics. The
formulas are those of the rule in :mod:`sn_mm.functional.switch`: ICLR paper,
Eq. 3 to 14.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ..triton.library import first_use, on
from .switch_settings import Exchange, Switch

_TILE = 512  # numbers at a time: 4 float64 for each of 128 threads
_CHANNELS = 64
_WIDEST = 1024  # run of rows at a time


def why_not(device: torch.device) -> str | None:
    """None if these kernels work on a device, or one sentence why not."""
    return first_use(
        device,
        'the numbers of Switchable Normalization',
        functools.partial(_difference, device),
    )


def forward(
    switch: Switch,
    moments: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    given: tuple[Tensor, Tensor] | None = None,
    exchange: Exchange | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """What rows are normalized with.

    Arguments and result, here of a GPU: see
    :func:`sn_mm.kernels.fused.switch_native.forward`.
    """
    plan = _make_plan(switch, moments, mean_weight)
    pools = _empty_pools(plan, moments)
    mean, var = given if given is not None else (moments, moments)
    factors = moments.new_empty((3, plan.n, plan.c), dtype=torch.float32)
    with on(moments.device):
        if plan.pool_programs:
            _kernels().pool_kernel[(plan.pool_programs,)](
                moments,
                mean.detach().contiguous(),
                var.detach().contiguous(),
                pools.get('ln', moments),
                pools.get('gn', moments),
                pools.get('bn', moments),
                plan.n,
                plan.c,
                plan.groups,
                switch.bessel,
                LN=plan.places['ln'],
                GN=plan.places['gn'],
                BN=plan.places['bn'],
                GIVEN=given is not None,
                SAMPLES=plan.long,
                CHANNELS=plan.narrow,
                **plan.runs,
            )
        if exchange is not None and 'bn' in pools:
            pools['bn'] = exchange(pools['bn']).contiguous()
        _kernels().factors_kernel[(plan.tiles,)](
            moments,
            pools.get('ln', moments),
            pools.get('gn', moments),
            pools.get('bn', moments),
            mean_weight.detach().contiguous(),
            var_weight.detach().contiguous(),
            _or(weight, moments),
            _or(bias, moments),
            factors,
            plan.n,
            plan.c,
            plan.groups,
            plan.sets,
            switch.bessel,
            switch.eps,
            K=plan.k,
            IN=plan.places['in'],
            LN=plan.places['ln'],
            GN=plan.places['gn'],
            BN=plan.places['bn'],
            LOGITS=switch.softmax,
            DROPPED=plan.dropped,
            WEIGHT=weight is not None,
            BIAS=bias is not None,
            SAMPLES=plan.samples,
            CHANNELS=plan.channels,
        )
    return factors, [pools.get(name) for name in switch.statistics]


def backward(
    switch: Switch,
    moments: Tensor,
    sums: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pools: list[Tensor | None],
    given: bool = False,
    exchange: Exchange | None = None,
    *,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of rows and parameters.

    Arguments and result, here of a GPU: see
    :func:`sn_mm.kernels.fused.switch_native.backward`.
    """
    plan = _make_plan(switch, moments, mean_weight)
    pooled = {
        name: pool
        for name, pool in zip(switch.statistics, pools)
        if pool is not None
    }
    d_pools = _empty_pools(plan, moments)
    batch = 'bn' in pooled and not given
    coefficients = moments.new_empty((3, plan.n, plan.c), dtype=torch.float32)
    grads = moments.new_empty((3, plan.n, plan.c))
    ratios = moments.new_empty((2, plan.k, plan.c))
    d_ratios = torch.empty_like(ratios)
    d_mean_weight = _empty_grad(mean_weight)
    d_var_weight = _empty_grad(var_weight)
    d_weight = None if weight is None else _empty_grad(weight)
    d_bias = None if bias is None else _empty_grad(bias)
    with on(moments.device):
        _kernels().rowgrads_kernel[(plan.tiles,)](
            moments,
            sums,
            pooled.get('ln', moments),
            pooled.get('gn', moments),
            pooled.get('bn', moments),
            mean_weight.detach().contiguous(),
            var_weight.detach().contiguous(),
            _or(weight, moments),
            grads,
            coefficients,
            ratios,
            plan.n,
            plan.c,
            plan.groups,
            plan.sets,
            switch.bessel,
            switch.eps,
            K=plan.k,
            IN=plan.places['in'],
            LN=plan.places['ln'],
            GN=plan.places['gn'],
            BN=plan.places['bn'],
            LOGITS=switch.softmax,
            DROPPED=plan.dropped,
            WEIGHT=weight is not None,
            SAMPLES=plan.samples,
            CHANNELS=plan.channels,
        )
        _kernels().gradpool_kernel[(plan.sum_programs,)](
            moments,
            sums,
            pooled.get('ln', moments),
            pooled.get('gn', moments),
            pooled.get('bn', moments),
            grads,
            ratios,
            _or(d_weight, moments),
            _or(d_bias, moments),
            d_ratios,
            d_pools.get('ln', moments),
            d_pools.get('gn', moments),
            d_pools.get('bn', moments),
            plan.n,
            plan.c,
            plan.groups,
            switch.bessel,
            K=plan.k,
            IN=plan.places['in'],
            LN=plan.places['ln'],
            GN=plan.places['gn'],
            BN=plan.places['bn'],
            BATCH=batch,
            WEIGHT=weight is not None,
            BIAS=bias is not None,
            SAMPLES=plan.long,
            CHANNELS=plan.narrow,
            **plan.runs,
        )
        bn_rows = plan.n
        if exchange is not None and batch:
            d_pools['bn'] = exchange(d_pools['bn']).contiguous()
            bn_rows = 1
        _kernels().dfactors_kernel[(plan.tiles + plan.sets,)](
            moments,
            pooled.get('ln', moments),
            pooled.get('gn', moments),
            pooled.get('bn', moments),
            grads,
            ratios,
            d_ratios,
            d_pools.get('ln', moments),
            d_pools.get('gn', moments),
            d_pools.get('bn', moments),
            coefficients,
            d_mean_weight,
            d_var_weight,
            plan.n,
            plan.c,
            size,
            plan.groups,
            plan.sets,
            bn_rows,
            switch.bessel,
            K=plan.k,
            IN=plan.places['in'],
            LN=plan.places['ln'],
            GN=plan.places['gn'],
            BATCH=batch,
            LOGITS=switch.softmax,
            SAMPLES=plan.samples,
            CHANNELS=plan.channels,
            PLACES=_power(plan.k),
            WIDTH=min(_power(plan.c // plan.sets), _TILE // _power(plan.k)),
        )
    return coefficients, d_mean_weight, d_var_weight, d_weight, d_bias


def move_running(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    pooled: Tensor,
    momentum: float | None,
) -> bool:
    """Move running statistics, in place, towards a batch's, in one launch.

    PyTorch's operations are 17 launches. Arguments and result: see
    :func:`sn_mm.kernels.fused.switch_native.move_running`.
    """
    if momentum is None or why_not(mean.device) is not None:
        return False
    c = pooled.shape[-1]
    buffers = (mean, var, count)
    fits = (
        pooled.shape in ((2, 1, c), (3, 1, c))
        and mean.shape == var.shape == (c,)
        and count.numel() == 1
        and all(t.is_contiguous() for t in buffers)
        and all(t.device == pooled.device for t in buffers)
        and mean.dtype == var.dtype == torch.float32
        and count.dtype == torch.int64
        and pooled.dtype == torch.float64
    )
    if not fits:
        return False
    with on(pooled.device):
        _kernels().move_kernel[(1,)](
            mean.detach(),
            var.detach(),
            count,
            pooled.detach().contiguous(),
            c,
            momentum,
            POSITIONS=pooled.shape[0] > 2,
            CHANNELS=min(_power(c), _WIDEST),
        )
    return True


def _difference(device: torch.device) -> str | None:
    """None if the results are right, or which are not.

    On rows that all have the same moments, where every statistic finds
    these, whatever it pools and whatever the ratios are: y = weight * (x -
    mean) / sqrt(var + eps) + bias.
    """
    n, c, size, mean, var = 3, 6, 4, 2.0, 0.25
    rows = torch.ones(n, c, device=device, dtype=torch.float64)
    moments = torch.stack([mean * rows, var * rows])
    weight = torch.arange(1.0, c + 1, device=device)
    sums = torch.stack([rows * weight, rows * weight.square()])
    logits = torch.arange(8.0, device=device).view(2, 4)
    switch = Switch(('in', 'ln', 'bn', 'gn'), 3, True, 1.0, False, 0.0)
    params = (logits, logits.flip(1), weight, weight)
    factors, pools = forward(switch, moments, *params)
    coefficients, d_mean_logits, d_var_logits, d_weight, d_bias = backward(
        switch, moments, sums, *params, pools, size=size
    )
    scale, shift = weight / var**0.5, weight.expand(n, c)
    # What dx adds up to, and its product with x - mean, is 0: mean and
    # variance of all rows together do not reach y.
    of_sums = scale * sums[0] + size * coefficients[2]
    of_products = scale * sums[1] + size * var * coefficients[1]
    checks = {
        'factors': (factors[0] - mean, factors[1] - scale, factors[2] - shift),
        'sums of gradients': (of_sums.sum(), of_products.sum()),
        'gradients of logits': (d_mean_logits, d_var_logits),
        'gradients of weight and bias': (
            d_weight - n * weight.square() / var**0.5,
            d_bias - n * weight,
        ),
    }
    for name, off in checks.items():
        # not <, which a NaN passes
        if not all(bool((t.abs() < 1e-3).all()) for t in off):
            return f'{name} are wrong'
    return None


class _Plan(NamedTuple):
    """How the kernels share the rows.

    Attributes:
        n, c, k: samples, channels and statistics.
        groups: channel groups of 'gn', or 1.
        sets: channel groups with their own ratios.
        places: of each kind of statistic among the ratios, or -1.
        dropped: the place that gets no ratio, or -1.
        samples, channels: of a tile.
        tiles: how many there are.
        long, narrow: of a tile where sums go over the samples.
        runs: tiles where sums go over runs of channels.
        pool_programs: of pool_kernel.
        sum_programs: of gradpool_kernel.
    """

    n: int
    c: int
    k: int
    groups: int
    sets: int
    places: dict[str, int]
    dropped: int
    samples: int
    channels: int
    tiles: int
    long: int
    narrow: int
    runs: dict[str, int]
    pool_programs: int
    sum_programs: int


def _make_plan(switch: Switch, moments: Tensor, logits: Tensor) -> _Plan:
    sets = logits.shape[0] if logits.dim() == 2 else 1
    return _plan(
        switch.statistics,
        switch.num_groups,
        switch.drop_instance,
        *moments.shape[1:],
        sets,
    )


@functools.lru_cache(maxsize=4096)
def _plan(
    names: tuple[str, ...],
    num_groups: int,
    drop_instance: bool,
    n: int,
    c: int,
    sets: int,
) -> _Plan:
    places = {
        name: names.index(name) if name in names else -1
        for name in ('in', 'ln', 'gn', 'bn')
    }
    groups = num_groups if 'gn' in names else 1
    channels = min(_power(c), _CHANNELS)
    samples = min(_power(n), _TILE // channels)
    # narrow tiles, because only channels share this work, and small ones,
    # because there is much to sum
    long = min(_power(n), _CHANNELS)
    narrow = min(_power(c), _TILE // 2 // long, _CHANNELS)
    ln_width, gn_width = (min(_power(c // g), _WIDEST) for g in (1, groups))
    ln_pools, gn_pools = (max(1, _TILE // w) for w in (ln_width, gn_width))
    run_programs = 0
    if 'ln' in names:
        run_programs += -(-n // ln_pools)
    if 'gn' in names:
        run_programs += -(-n * groups // gn_pools)
    channel_programs = -(-c // narrow)
    return _Plan(
        n=n,
        c=c,
        k=len(names),
        groups=groups,
        sets=sets,
        places=places,
        dropped=places['in'] if drop_instance else -1,
        samples=samples,
        channels=channels,
        tiles=-(-n // samples) * -(-c // channels),
        long=long,
        narrow=narrow,
        runs={
            'LN_POOLS': ln_pools,
            'LN_WIDTH': ln_width,
            'GN_POOLS': gn_pools,
            'GN_WIDTH': gn_width,
        },
        pool_programs=run_programs + channel_programs * ('bn' in names),
        sum_programs=run_programs + channel_programs,
    )


def _power(value: int) -> int:
    """The next power of two."""
    return 1 << (value - 1).bit_length()


def _empty_pools(plan: _Plan, moments: Tensor) -> dict[str, Tensor]:
    """Room for two numbers of whatever each statistic pools."""
    shapes = {
        'ln': (2, plan.n, 1),
        'gn': (2, plan.n, plan.groups),
        'bn': (2, 1, plan.c),
    }
    return {
        name: moments.new_empty(shape)
        for name, shape in shapes.items()
        if plan.places[name] >= 0
    }


def _empty_grad(parameter: Tensor) -> Tensor:
    return torch.empty_like(
        parameter,
        dtype=torch.float32,
        memory_format=torch.contiguous_format,
        requires_grad=False,
    )


def _or(t: Tensor | None, unused: Tensor) -> Tensor:
    """What the kernels take for a tensor that may not be there."""
    return unused if t is None else t.detach().contiguous()


@functools.cache
def _kernels() -> ModuleType:
    """The module of the kernels, which imports Triton."""
    return importlib.import_module('.switch_kernels', __package__)
