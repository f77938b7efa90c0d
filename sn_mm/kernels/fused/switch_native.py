# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of Switchable Normalization in C (switch.c).

In PyTorch they are about 140 small operations, which cost a layer of a
detector more than its memory does. Here they are four calls, and one for the
running statistics.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..native.library import Library, check_fields
from ..native.sweeps import thread_count
from ..native.tensors import array_address, doubles, floats
from .switch_layer import (
    CHANNEL_ARRAYS,
    BackwardLayer,
    Layer,
    Params,
    Plan,
    checked_address,
    place_batch,
    plan,
)
from .switch_settings import Exchange, Switch

_P, _I, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


def _check(library: ctypes.CDLL) -> None:
    """That Python and C agree on what a layer is."""
    check_fields(library, 'switch_fields', Layer)
    size = _I.in_dll(library, 'switch_backward_size').value
    if size != ctypes.sizeof(BackwardLayer):
        raise OSError(f'what backward needs has {size} bytes in C')
    arrays = _I.in_dll(library, 'switch_channel_arrays').value
    if arrays != CHANNEL_ARRAYS:
        raise OSError(f'{arrays} arrays in C, {CHANNEL_ARRAYS} in Python')


_library = Library(
    Path(__file__).with_name('switch.c'),
    {
        'switch_pool': (_P,),
        'switch_factors': (_P, _P),
        'switch_sums': (_P, _P, _P),
        'switch_coefficients': (_P, _D, _P),
        'switch_move': (_P, _P, _P, _P, _I, _I, _D),
    },
    ('-O3',),
    _check,
)


def why_not() -> str | None:
    """Why there are no fused numbers in C; None where there are."""
    return _library.why_not()


@functools.cache
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
        sweep; and by statistic what :func:`backward` needs: (2 or 3, 1, C)
        for 'bn', None for what it pools again.

    Raises:
        ValueError, TypeError: if a tensor has another shape, or cannot be
            read on the CPU.
    """
    params, kept = (mean_weight, var_weight, weight, bias), []
    layer = _plan(switch, moments, params, given is not None).forward(
        params, kept
    )
    _place_moments(layer, moments, kept)
    pools: list[Tensor | None] = [None] * len(switch.statistics)
    if layer.bn >= 0:
        c = layer.channels
        batch = doubles(2, 1, c) if given is None else stacked(given, c)
        place_batch(layer, batch, kept)
    library, reference = _library.get(), ctypes.byref(layer)
    library.switch_pool(reference)
    if layer.bn >= 0:
        if exchange is not None and given is None:
            batch = exchange(batch)
            place_batch(layer, batch, kept)
        pools[layer.bn] = batch
    factors = floats(3, layer.samples, layer.channels)
    library.switch_factors(reference, factors.data_ptr())
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
    params, kept = (mean_weight, var_weight, weight, bias), []
    planned = _plan(switch, moments, params, given, size)
    numbers, d_params = planned.backward(params, kept)
    layer, library = numbers.of, _library.get()
    n, c = layer.samples, layer.channels
    _place_moments(layer, moments, kept)
    sums_at = checked_address(sums, torch.float64, (2, n, c), 'sums', kept)
    library.switch_pool(ctypes.byref(layer))  # not worth keeping
    if layer.bn >= 0:
        place_batch(layer, pools[layer.bn], kept)
    synchronized = exchange is not None and layer.bn >= 0 and not given
    if synchronized:
        bn_grad = doubles(2, 1, c)
        layer.bn_grad = bn_grad.data_ptr()
    coefficients, reference = floats(3, n, c), ctypes.byref(numbers)
    library.switch_sums(reference, sums_at, coefficients.data_ptr())
    share = 1 / n
    if synchronized:
        shares, share = exchange(bn_grad), 1
        layer.bn_grad = checked_address(
            shares, torch.float64, (2, 1, c), 'what exchange returns', kept
        )
    library.switch_coefficients(reference, share, coefficients.data_ptr())
    d_weight, d_bias = (
        None if p is None else d for p, d in zip(params[2:], d_params[2:])
    )
    return coefficients, *d_params[:2], d_weight, d_bias


def move_running(
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
    if momentum is None:
        return False
    addresses = (
        array_address(mean, torch.float32),
        array_address(var, torch.float32),
        array_address(count, torch.int64),
        array_address(pooled, torch.float64),
    )
    if 0 in addresses:
        return False
    rows, c = pooled.shape[0], pooled.shape[-1]
    fits = rows in (2, 3) and pooled.numel() == rows * c == rows * mean.numel()
    if not fits or var.numel() != c or count.numel() != 1:
        return False
    library = _library.get()
    if library is None:
        return False
    library.switch_move(*addresses, rows, c, momentum)
    return True


def _plan(
    switch: Switch,
    moments: Tensor,
    params: Params,
    given: bool,
    size: int = 1,
) -> Plan:
    _, n, c = moments.shape
    logits = tuple(params[0].shape)
    return plan(switch, n, c, size, logits, given, thread_count())


def _place_moments(layer: Layer, moments: Tensor, kept: list[Tensor]) -> None:
    shape = 2, layer.samples, layer.channels
    layer.moments = checked_address(
        moments, torch.float64, shape, 'moments', kept
    )


def stacked(given: tuple[Tensor, Tensor], c: int) -> Tensor:
    """Given mean and variance of 'bn', (2, 1, C)."""
    for name, t in zip(('mean', 'variance'), given):
        checked_address(t, t.dtype, (c,), f'the given {name}', [])
    return torch.stack([t.detach().double() for t in given])[:, None]
