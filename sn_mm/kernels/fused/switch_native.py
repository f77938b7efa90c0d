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

from ..native.library import Library
from ..native.sweeps import thread_count
from ..native.tensors import (
    array_address,
    as_array,
    doubles,
    floats,
    scratch,
)
from .switch_settings import Exchange, Switch

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


class BackwardLayer(ctypes.Structure):
    """``backward_layer`` of switch.c."""

    _fields_ = [
        ('of', Layer),
        ('grads', _P),
        ('segments', _P),
        ('d_mean_weight', _P),
        ('d_var_weight', _P),
        ('d_weight', _P),
        ('d_bias', _P),
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
        sweep; and the pooled moments by statistic: (2, N, 1) for 'ln', (2,
        N, num_groups) for 'gn', (2 or 3, 1, C) for 'bn', None for 'in'.

    Raises:
        ValueError, TypeError: if a tensor has another shape, or cannot be
            read on the CPU.
    """
    call = _Call(switch, moments, mean_weight, var_weight, weight, bias)
    call.new_pools(given)
    library, layer = _library.get(), call.layer
    reference = ctypes.byref(layer)
    library.switch_pool(reference)
    if exchange is not None and layer.bn >= 0 and given is None:
        call.set_pool('bn', exchange(call.pools[layer.bn]))
    factors = floats(3, layer.samples, layer.channels)
    library.switch_factors(reference, factors.data_ptr())
    return factors, call.pools


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
    call = _Call(switch, moments, mean_weight, var_weight, weight, bias)
    for statistic, pool in zip(switch.statistics, pools):
        if pool is not None:
            call.set_pool(statistic, pool)
    library, layer = _library.get(), call.layer
    n, c, rows = layer.samples, layer.channels, layer.samples * layer.channels
    layer.given, layer.size = given, size
    sums_at = call.array(sums, torch.float64, (2, n, c), 'sums')
    synchronized = exchange is not None and layer.bn >= 0 and not given
    bn_grad = doubles(2, 1, c) if synchronized else None
    layer.ln_grad = scratch('ln_grad', 2 * n)
    layer.gn_grad = scratch('gn_grad', 2 * n * switch.num_groups)
    layer.bn_grad = (
        bn_grad.data_ptr() if synchronized else scratch('bn_grad', 2 * c)
    )
    grads = scratch('grads', 2 * rows)
    coefficients = floats(3, n, c)
    coefficients_at = coefficients.data_ptr()
    d_params = [
        floats(*mean_weight.shape),
        floats(*var_weight.shape),
        floats(c),
        floats(c),
    ]
    reference = ctypes.byref(layer)
    library.switch_sums(
        reference,
        sums_at,
        grads,
        scratch('segments', 2 * rows),
        coefficients_at,
        *(d.data_ptr() for d in d_params),
    )
    share = 1 / n
    if synchronized:
        shares = exchange(bn_grad)
        layer.bn_grad = call.array(
            shares, torch.float64, (2, 1, c), 'what exchange returns'
        )
        share = 1
    library.switch_coefficients(
        reference, grads, share, coefficients_at + 4 * rows
    )
    if weight is None:
        d_params[2] = None
    if bias is None:
        d_params[3] = None
    return (coefficients, *d_params)


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


class _Call:
    """What C needs to know of a layer, all of it checked.

    Attributes:
        layer: sizes and addresses.
        pools: pooled moments by statistic.
    """

    def __init__(
        self,
        switch: Switch,
        moments: Tensor,
        mean_weight: Tensor,
        var_weight: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        _, n, c = shape = moments.shape
        logits = mean_weight.shape
        check_sizes(switch, c, tuple(logits))
        self._kept: list[Tensor] = []  # while C has their addresses
        self.pools: list[Tensor | None] = [None] * len(switch.statistics)
        self._switch = switch
        self.layer = layer = Layer()
        layer.samples, layer.channels = n, c
        layer.count = k = logits[-1]
        layer.ratio_groups = groups = mean_weight.numel() // k
        layer.num_groups = switch.num_groups
        for statistic in _STATISTICS:
            place = _place(switch.statistics, statistic)
            setattr(layer, statistic, place)
        layer.softmax, layer.drop_instance = (
            switch.softmax,
            switch.drop_instance,
        )
        layer.threads = thread_count()
        layer.eps, layer.bessel = switch.eps, switch.bessel
        floating = torch.float32
        layer.mean_weight = self.array(
            mean_weight, floating, logits, 'mean_weight'
        )
        layer.var_weight = self.array(
            var_weight, floating, logits, 'var_weight'
        )
        if weight is not None:
            layer.weight = self.array(weight, floating, (c,), 'weight')
        if bias is not None:
            layer.bias = self.array(bias, floating, (c,), 'bias')
        layer.moments = self.array(moments, torch.float64, shape, 'moments')
        layer.ratios = scratch('ratios', 2 * k * groups)
        layer.by_channel = scratch('by_channel', CHANNEL_ARRAYS * c)

    def array(
        self, t: Tensor, dtype: torch.dtype, shape: Sequence[int], name: str
    ) -> int:
        """See :func:`checked_address`."""
        return checked_address(t, dtype, shape, name, self._kept)

    def new_pools(self, given: tuple[Tensor, Tensor] | None) -> None:
        """Make room for pooled moments; given ones come as they are."""
        layer = self.layer
        for i, statistic in enumerate(self._switch.statistics):
            if statistic == 'bn' and given is not None:
                layer.given = True
                self.set_pool('bn', self._given(given))
            elif statistic != 'in':
                pool = doubles(2, *self._pool_shape(statistic))
                setattr(layer, f'{statistic}_pool', pool.data_ptr())
                self.pools[i] = pool

    def set_pool(self, statistic: str, pool: Tensor) -> None:
        """Use pooled moments from outside.

        Raises:
            ValueError, TypeError: as :meth:`array`.
        """
        rows = 3 if statistic == 'bn' and pool.shape[0] == 3 else 2
        address = self.array(
            pool,
            torch.float64,
            (rows, *self._pool_shape(statistic)),
            f'the pooled {statistic!r}',
        )
        setattr(self.layer, f'{statistic}_pool', address)
        self.pools[getattr(self.layer, statistic)] = pool

    def _pool_shape(self, statistic: str) -> tuple[int, int]:
        """Samples and columns of a pooled statistic."""
        layer = self.layer
        if statistic == 'bn':
            return 1, layer.channels
        columns = 1 if statistic == 'ln' else layer.num_groups
        return layer.samples, columns

    def _given(self, given: tuple[Tensor, Tensor]) -> Tensor:
        """Given moments of 'bn', (2, 1, C)."""
        for name, t in zip(('mean', 'variance'), given):
            self.array(
                t,
                t.dtype,
                (self.layer.channels,),
                f'the given {name}',
            )
        return torch.stack([t.detach().double() for t in given])[:, None]


def checked_address(
    t: Tensor,
    dtype: torch.dtype,
    shape: Sequence[int],
    name: str,
    kept: list[Tensor],
) -> int:
    """The address of t, or of a copy that C can read, put into ``kept``.

    Raises:
        ValueError, TypeError: if it has another shape, or no values that C
            could read.
    """
    if t.shape != shape:
        raise ValueError(
            f'{name} has shape {tuple(t.shape)}, but needs {tuple(shape)}'
        )
    address = array_address(t, dtype)
    if not address:
        t = as_array(t, dtype, name)
        kept.append(t)
        address = t.data_ptr()
    return address


@functools.lru_cache(maxsize=256)
def check_sizes(switch: Switch, c: int, logits: tuple[int, ...]) -> None:
    """That groups and ratios fit the channels and the statistics."""
    groups, k = switch.num_groups, len(switch.statistics)
    if 'gn' in switch.statistics and (groups < 1 or c % groups):
        raise ValueError(f'num_groups={groups} does not divide {c} channels')
    sharing = logits[0] if len(logits) == 2 else 1
    fits = len(logits) in (1, 2) and logits[-1] == k
    if not fits or sharing < 1 or c % sharing:
        raise ValueError(
            f'mean_weight has shape {logits}; {c} channels and the '
            f'statistics {switch.statistics} need ({k},), or (G, {k}) with G '
            'channel groups'
        )


@functools.lru_cache(maxsize=64)
def _place(statistics: tuple[str, ...], statistic: str) -> int:
    """Which ratio is that statistic's; -1 for none."""
    return statistics.index(statistic) if statistic in statistics else -1
