# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of Switchable Normalization in C (switch.c).

In PyTorch they are about 140 small operations, which cost a layer of a
detector more than its memory does. Here they are four calls, and one for the
running statistics.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..native.library import Library
from ..native.sweeps import thread_count
from ..native.tensors import address, as_array, doubles, is_array, scratch
from .switch import Switch

Exchange = Callable[[Tensor], Tensor]

_P, _I, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_STATISTICS = ('in', 'ln', 'bn', 'gn')
CHANNEL_ARRAYS = 16  # of switch.c, by_channel


class Layer(ctypes.Structure):
    """``layer`` of switch.c, which says what the fields are."""

    _fields_ = [
        ('samples', _I),
        ('channels', _I),
        ('count', _I),
        ('ratio_groups', _I),
        ('num_groups', _I),
        ('in', _I),
        ('ln', _I),
        ('bn', _I),
        ('gn', _I),
        ('softmax', _I),
        ('drop_instance', _I),
        ('given', _I),
        ('threads', _I),
        ('eps', _D),
        ('bessel', _D),
        ('size', _D),
        ('mean_weight', _P),
        ('var_weight', _P),
        ('weight', _P),
        ('bias', _P),
        ('moments', _P),
        ('ln_pool', _P),
        ('bn_pool', _P),
        ('gn_pool', _P),
        ('ln_grad', _P),
        ('bn_grad', _P),
        ('gn_grad', _P),
        ('ratios', _P),
        ('by_channel', _P),
    ]


def _check_fields(library: ctypes.CDLL) -> None:
    """That Python and C agree on where the fields of a layer are."""
    names = [name for name, _ in Layer._fields_]
    here = [
        ctypes.sizeof(Layer),
        *(getattr(Layer, name).offset for name in names),
    ]
    there = (_I * len(here)).in_dll(library, 'switch_fields')
    if list(there) != here:
        raise OSError(f'fields are at {list(there)} in C, {here} in Python')
    size = _I.in_dll(library, 'switch_backward_size').value
    if size != ctypes.sizeof(BackwardLayer):
        raise OSError(f'what backward needs has {size} bytes in C')
    arrays = _I.in_dll(library, 'switch_channel_arrays').value
    if arrays != CHANNEL_ARRAYS:
        raise OSError(f'{arrays} arrays in C, {CHANNEL_ARRAYS} in Python')


class BackwardLayer(ctypes.Structure):
    """``backward_layer`` of switch.c."""

    _fields_ = [
        ('of', Layer),
        *((name, _P) for name in ('grads', 'segments')),
        *((name, _P) for name in ('d_mean_weight', 'd_var_weight')),
        *((name, _P) for name in ('d_weight', 'd_bias')),
    ]


_library = Library(
    Path(__file__).with_name('switch.c'),
    {
        'switch_pool': (_P,),
        'switch_factors': (_P, _P),
        'switch_sums': (_P, _P, _P, _P, _P, _P, _P, _P, _P),
        'switch_coefficients': (_P, _P, _D, _P),
        'switch_move': (_P, _P, _P, _P, _I, _I, _D),
    },
    ('-O3',),
    _check_fields,
)


def why_not() -> str | None:
    """Why there are no fused numbers in C; None where there are."""
    return _library.why_not()


@functools.lru_cache(maxsize=None)
def function_address(name: str) -> int:
    """Where one of the functions is that native/driver.c calls."""
    return ctypes.cast(getattr(_library.get(), name), _P).value


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

    Args:
        switch: the layer.
        moments: (2, N, C), means and biased variances of the rows, float64.
        mean_weight, var_weight: (K,), or (G, K) for G channel groups.
        weight, bias: (C,) or None.
        given: mean and variance (C,) in place of the batch's for 'bn'.
        exchange: gets this process's pooled moments (2, 1, C) for 'bn', and
            returns those of all processes with the number of positions,
            (3, 1, C).

    Returns:
        factors (3, N, C), float32: near, scale and shift of the affine
        sweep; and the pooled moments by statistic: (2, N, 1) for 'ln', (2,
        N, num_groups) for 'gn', (2 or 3, 1, C) for 'bn', None for 'in'.

    Raises:
        ValueError, TypeError: if a tensor has another shape, or cannot be
            read on the CPU.
    """
    library = _library.get()
    moments = as_array(moments, torch.float64, 'moments')
    _, n, c = moments.shape
    params = as_parameters(switch, c, mean_weight, var_weight, weight, bias)
    pools = [_new_pool(s, switch, n, c, given) for s in switch.statistics]
    layer = _layer(switch, moments, params, pools, given is not None)
    library.switch_pool(ctypes.byref(layer))
    if exchange is not None and layer.bn >= 0 and given is None:
        pools[layer.bn] = exchange(pools[layer.bn])
        layer.bn_pool = _pool(pools[layer.bn], 'bn', switch, n, c).data_ptr()
    factors = torch.empty((3, n, c), device='cpu')
    library.switch_factors(ctypes.byref(layer), factors.data_ptr())
    return factors, pools


def backward(
    switch: Switch,
    moments: Tensor,
    sums: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    pools: Sequence[Tensor | None],
    given: bool = False,
    exchange: Exchange | None = None,
    *,
    size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of rows and parameters.

    Args:
        switch, moments, mean_weight, var_weight, weight, bias: as for
            :func:`forward`.
        sums: (2, N, C), sum(dy) and sum(dy * (x - near)) of the rows,
            float64; near is the rows' mean as float32.
        pools: what :func:`forward` returned.
        given: whether 'bn' had given moments, which get no gradient.
        exchange: gets the sums (2, 1, C) over this process's rows of the
            gradients of the pooled 'bn', and returns each row's share.
        size: S, positions of a row.

    Returns:
        coefficients (3, N, C), float32: scale, slope and shift of the
        combine sweep; gradients of mean_weight, var_weight, weight and bias,
        float32 (None for None).

    Raises:
        ValueError, TypeError: as :func:`forward`.
    """
    library = _library.get()
    moments = as_array(moments, torch.float64, 'moments')
    sums = as_array(sums, torch.float64, 'sums')
    _check_shape(sums, tuple(moments.shape), 'sums')
    _, n, c = moments.shape
    params = as_parameters(switch, c, mean_weight, var_weight, weight, bias)
    pools = [
        None if p is None else _pool(p, s, switch, n, c)
        for s, p in zip(switch.statistics, pools)
    ]
    layer = _layer(switch, moments, params, pools, given, size)
    rows = n * c
    grads = scratch('grads', 2 * rows)
    segments = scratch('segments', 2 * rows)
    pool_grads = scratch('pool_grads', 2 * (n + c + n * switch.num_groups))
    start = pool_grads.data_ptr()
    layer.ln_grad, layer.gn_grad = start, start + 16 * n
    bn_grad = doubles(2, 1, c)
    layer.bn_grad = bn_grad.data_ptr()
    coefficients = torch.empty((3, n, c), device='cpu')
    d_params = torch.empty(2 * (c + params[0].numel()), device='cpu')
    d_mean, d_var, d_weight, d_bias = d_params.split(
        (params[0].numel(), params[0].numel(), c, c)
    )
    library.switch_sums(
        ctypes.byref(layer),
        sums.data_ptr(),
        grads.data_ptr(),
        segments.data_ptr(),
        coefficients.data_ptr(),
        d_mean.data_ptr(),
        d_var.data_ptr(),
        d_weight.data_ptr(),
        d_bias.data_ptr(),
    )
    share = 1 / n
    if exchange is not None and layer.bn >= 0 and not given:
        bn_grad = as_array(exchange(bn_grad), torch.float64, 'shares')
        _check_shape(bn_grad, (2, 1, c), 'shares')
        layer.bn_grad, share = bn_grad.data_ptr(), 1
    library.switch_coefficients(
        ctypes.byref(layer),
        grads.data_ptr(),
        share,
        coefficients.data_ptr() + 4 * rows,
    )
    return (
        coefficients,
        d_mean.view(mean_weight.shape),
        d_var.view(var_weight.shape),
        None if weight is None else d_weight,
        None if bias is None else d_bias,
    )


def move(
    mean: Tensor,
    var: Tensor,
    count: Tensor,
    pooled: Tensor,
    momentum: float | None,
) -> bool:
    """Move running statistics, in place, towards a batch's.

    PyTorch's eight operations take 0.15 ms when the caches are full of x.

    Args:
        mean, var: (C,).
        count: () number of batches so far, int64.
        pooled: (2, 1, C), the batch's mean and variance; or (3, 1, C) with
            its number of positions: nothing moves if that is 0, nor if a
            mean or variance is not finite.
        momentum: weight of the batch's.

    Returns:
        Whether this was done here; if not, PyTorch has to do it.
    """
    if momentum is None or not (
        is_array(mean, torch.float32)
        and is_array(var, torch.float32)
        and is_array(count, torch.int64)
        and is_array(pooled, torch.float64)
    ):
        return False
    rows, c = pooled.shape[0], pooled.shape[-1]
    fits = pooled.shape in ((2, 1, c), (3, 1, c)) and count.numel() == 1
    if not fits or mean.shape != (c,) or var.shape != (c,):
        return False
    library = _library.get()
    if library is None:
        return False
    library.switch_move(
        mean.data_ptr(),
        var.data_ptr(),
        count.data_ptr(),
        pooled.data_ptr(),
        rows,
        c,
        momentum,
    )
    return True


def as_parameters(
    switch: Switch,
    c: int,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Parameters as C reads them.

    Raises:
        ValueError: if their shapes do not fit the layer.
    """
    arrays = (mean_weight, var_weight, weight, bias)
    if all(t is None or is_array(t, torch.float32) for t in arrays) and (
        _fit(switch, c, *arrays)
    ):
        return arrays
    k = len(switch.statistics)
    groups = switch.num_groups
    if 'gn' in switch.statistics and not divides(groups, c):
        raise ValueError(f'num_groups={groups} does not divide {c} channels')
    for name, t in (('mean_weight', mean_weight), ('var_weight', var_weight)):
        shape = tuple(t.shape)
        groups = shape[0] if len(shape) == 2 else 1
        if not groups or shape[-1:] != (k,) or len(shape) > 2 or c % groups:
            raise ValueError(
                f'{name} has shape {shape}; {c} channels and the statistics '
                f'{switch.statistics} need ({k},), or (G, {k}) with G channel '
                'groups'
            )
    _check_shape(var_weight, tuple(mean_weight.shape), 'var_weight')
    for name, t in (('weight', weight), ('bias', bias)):
        if t is not None:
            _check_shape(t, (c,), name)
    return (
        as_array(mean_weight, torch.float32, 'mean_weight'),
        as_array(var_weight, torch.float32, 'var_weight'),
        None if weight is None else as_array(weight, torch.float32, 'weight'),
        None if bias is None else as_array(bias, torch.float32, 'bias'),
    )


def divides(groups: int, c: int) -> bool:
    """Whether c channels can be in that many groups."""
    return groups > 0 and c % groups == 0


def _fit(switch, c, mean_weight, var_weight, weight, bias) -> bool:
    """Whether shapes are those of an ordinary layer; others are looked at."""
    return (
        mean_weight.shape == var_weight.shape == (len(switch.statistics),)
        and (weight is None or weight.numel() == c)
        and (bias is None or bias.numel() == c)
        and ('gn' not in switch.statistics or divides(switch.num_groups, c))
    )


def _check_shape(t: Tensor, shape: tuple[int, ...], name: str) -> None:
    if t.shape != shape:
        raise ValueError(
            f'{name} has shape {tuple(t.shape)}, but needs {shape}'
        )


def _pool_shape(
    statistic: str, switch: Switch, n: int, c: int
) -> tuple[int, int]:
    """Samples and columns of a pooled statistic."""
    if statistic == 'bn':
        return 1, c
    return n, 1 if statistic == 'ln' else switch.num_groups


def _new_pool(
    statistic: str,
    switch: Switch,
    n: int,
    c: int,
    given: tuple[Tensor, Tensor] | None,
) -> Tensor | None:
    """Where the pooled moments go; given ones as they are."""
    if statistic == 'in':
        return None
    if statistic == 'bn' and given is not None:
        for name, t in zip(('mean', 'variance'), given):
            _check_shape(t, (c,), f'the given {name}')
        stacked = torch.stack([t.detach().double() for t in given])
        return as_array(stacked.unsqueeze(1), torch.float64, 'what is given')
    return doubles(2, *_pool_shape(statistic, switch, n, c))


def _pool(
    pool: Tensor, statistic: str, switch: Switch, n: int, c: int
) -> Tensor:
    """A pooled statistic from outside, as C reads it."""
    pool = as_array(pool, torch.float64, f'the pooled {statistic!r}')
    shape = _pool_shape(statistic, switch, n, c)
    if pool.shape[1:] != shape or pool.shape[0] not in (2, 3):
        raise ValueError(
            f'the pooled {statistic!r} has shape {tuple(pool.shape)}, but '
            f'needs {(2, *shape)}'
        )
    return pool


def _layer(
    switch: Switch,
    moments: Tensor,
    params: Sequence[Tensor | None],
    pools: Sequence[Tensor | None],
    given: bool,
    size: int = 1,
) -> Layer:
    """Arguments for C: addresses of tensors that the caller keeps alive."""
    _, n, c = moments.shape
    places = dict.fromkeys(_STATISTICS, -1)
    places.update((s, i) for i, s in enumerate(switch.statistics))
    addresses = {s: address(p) for s, p in zip(switch.statistics, pools)}
    logits = params[0].numel()
    k = len(switch.statistics)
    kept = scratch('channels', 2 * logits + CHANNEL_ARRAYS * c).data_ptr()
    return Layer(
        n,
        c,
        k,
        logits // k,
        switch.num_groups,
        places['in'],
        places['ln'],
        places['bn'],
        places['gn'],
        switch.softmax,
        switch.drop_instance,
        given,
        thread_count(),
        switch.eps,
        switch.bessel,
        size,
        *map(address, params),
        moments.data_ptr(),
        addresses.get('ln'),
        addresses.get('bn'),
        addresses.get('gn'),
        None,
        None,
        None,
        kept,
        kept + 16 * logits,
    )
