# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps in C (sweeps.c), where there is a compiler.

PyTorch has no CPU kernel that takes the moments of a row, or combines two
rows with factors of their own, in one sweep over memory. Half precisions are
computed as they are: widened in registers, and rounded when written.

What reaches C has been looked at here: device, dtype, layout, strides and
size. What C cannot read goes to :mod:`sn_mm.kernels.aten`, which is right or
raises.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .. import aten
from ..layout import dense, is_channels_last, spatial_size
from .library import Library
from .tensors import (
    address,
    as_array,
    can_materialize,
    doubles,
    materialized,
    why_not_array,
)

name = 'native'

_P, _I = ctypes.c_void_p, ctypes.c_int64
_SHAPE = (_I, _I, _I, _I)
_FUNCTIONS = {
    'sweeps_tune': (_I, _I, _I),
    'sweeps_moments': (_P, *_SHAPE, _P, _I),
    'sweeps_affine': (_P, *_SHAPE, _P, _P, _P, _I, _P, _I),
    'sweeps_products': (_P, _P, *_SHAPE, _P, _P, _P, _P, _I),
    'sweeps_remeasure': (_P, _P, *_SHAPE, _P, _P, _I),
    'sweeps_combine': (_P, _P, *_SHAPE, _P, _P, _P, _P, _P, _P, _P, _I),
}
_SOURCE = Path(__file__).with_name('sweeps.c')
_LIBRARIES = {
    dtype: Library(
        _SOURCE, _FUNCTIONS, ('-O2', *flags), lambda lib: _tune(lib)
    )
    for dtype, *flags in (
        (torch.float32,),
        (torch.float16, '-DFLOAT16'),
        (torch.bfloat16, '-DBFLOAT16'),
    )
}


class Variant(NamedTuple):
    """What suits a machine; results do not depend on it.

    Attributes:
        read_ahead, write_ahead: how many values ahead of its work a sweep
            fetches what it reads, and what it writes, from memory.
        stream_from: bytes of output from which on it is written past the
            caches; never if negative.
    """

    read_ahead: int = 2048
    write_ahead: int = 2048
    stream_from: int = -1


_pinned: Variant | None = None


def use_variant(variant: Variant | None) -> None:
    """Use this variant in place of the one found on this machine.

    Args:
        variant: None goes back to the one found.
    """
    global _pinned
    _pinned = variant
    for library in _LIBRARIES.values():
        if library.is_loaded:
            _tune(library.get())


def _tune(library: ctypes.CDLL) -> None:
    library.sweeps_tune(*(_pinned or Variant()))


def why_not(x: Tensor) -> str | None:
    """Why C cannot take x (N, C, *spatial), not empty; None where it can."""
    reason = why_not_array(x)
    if reason and not can_materialize(x):
        return reason
    library = _LIBRARIES.get(x.dtype)
    if library is None:
        return f'its dtype is {x.dtype}'
    return library.why_not()


def moments(x: Tensor) -> Tensor:
    """See :func:`sn_mm.kernels.aten.moments`."""
    rows = Rows.of(x)
    if rows is None:
        return aten.moments(x)
    out = doubles(2, *x.shape[:2])
    rows.library.sweeps_moments(
        *rows.arguments, out.data_ptr(), thread_count()
    )
    return out


def affine(
    x: Tensor, near: Tensor, scale: Tensor, shift: Tensor, relu: bool = False
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.affine`."""
    rows = Rows.of(x)
    if rows is None:
        return aten.affine(x, near, scale, shift, relu)
    factors = [_factor(t, x) for t in (near, scale, shift)]
    y = torch.empty_like(rows.data)
    rows.library.sweeps_affine(
        *rows.arguments,
        *(t.data_ptr() for t in factors),
        relu,
        y.data_ptr(),
        thread_count(),
    )
    return y


def products(
    dy: Tensor,
    x: Tensor,
    near: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.products`."""
    rows = Rows.of(x, dy)
    if rows is None:
        return aten.products(dy, x, near, gate)
    gates = (None, None) if gate is None else [_factor(t, x) for t in gate]
    near = _factor(near, x)
    out = doubles(2, *x.shape[:2])
    rows.library.sweeps_products(
        rows.dy.data_ptr(),
        *rows.arguments,
        near.data_ptr(),
        *map(address, gates),
        out.data_ptr(),
        thread_count(),
    )
    return out


def combine(
    dy: Tensor,
    x: Tensor,
    scale: Tensor,
    near: Tensor,
    slope: Tensor,
    shift: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.combine`."""
    rows = Rows.of(x, dy)
    if rows is None:
        return aten.combine(dy, x, scale, near, slope, shift, gate)
    gates = (None, None) if gate is None else [_factor(t, x) for t in gate]
    factors = [_factor(t, x) for t in (scale, near, slope, shift)]
    dx = torch.empty_like(rows.data)
    rows.library.sweeps_combine(
        rows.dy.data_ptr(),
        *rows.arguments,
        *(t.data_ptr() for t in factors),
        *map(address, gates),
        dx.data_ptr(),
        thread_count(),
    )
    return dx


def remeasure(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`sn_mm.kernels.aten.remeasure`."""
    rows = Rows.of(x, dy)
    if rows is None:
        return aten.remeasure(dy, x)
    measured, sums = doubles(2, *x.shape[:2]), doubles(2, *x.shape[:2])
    rows.library.sweeps_remeasure(
        rows.dy.data_ptr(),
        *rows.arguments,
        measured.data_ptr(),
        sums.data_ptr(),
        thread_count(),
    )
    return measured, sums


class Rows:
    """x, and dy, as C reads them.

    Attributes:
        data: x without gaps in memory; it must outlive the call.
        dy: in x's dtype and memory format, or None.
        arguments: the address of ``data``, N, C, S, and whether channels are
            last in memory.
        count: of rows, N * C.
        library: the sweeps for this dtype.
    """

    __slots__ = ('data', 'dy', 'arguments', 'count', 'library')

    @classmethod
    def of(cls, x: Tensor, dy: Tensor | None = None) -> Rows | None:
        """None where C cannot read them."""
        if why_not(x) is not None:
            return None
        rows = cls()
        last = is_channels_last(x)
        rows.data = dense(materialized(x), last)
        rows.dy = None if dy is None else _gradient(dy, x, last)
        if dy is not None and rows.dy is None:
            return None
        n, c = x.shape[:2]
        size = spatial_size(x)
        # a single position is as good a row of channels as of positions
        rows.arguments = (rows.data.data_ptr(), n, c, size, last or size == 1)
        rows.count = n * c
        rows.library = _LIBRARIES[x.dtype].get()
        return rows


def _gradient(dy: Tensor, x: Tensor, last: bool) -> Tensor | None:
    """dy in memory as x is, or None."""
    if dy.shape != x.shape:
        raise ValueError(
            f'the gradient has shape {tuple(dy.shape)}, the input '
            f'{tuple(x.shape)}'
        )
    if dy.dtype is not x.dtype:
        dy = dy.to(x.dtype)
    if why_not_array(dy) is not None:
        dy = materialized(dy)
        if why_not_array(dy) is not None:
            return None
    return dense(dy, last)


def _factor(t: Tensor, x: Tensor) -> Tensor:
    """A factor of rows, (N, C), as C reads it."""
    if t.shape != x.shape[:2]:
        raise ValueError(
            f'a factor of rows has shape {tuple(t.shape)}, but an input of '
            f'shape {tuple(x.shape)} needs {tuple(x.shape[:2])}'
        )
    return as_array(t, torch.float32, 'a factor of rows')


def thread_count() -> int:
    """Threads that C may use."""
    return 1 if _forked else torch.get_num_threads()


_forked = False


def _after_fork() -> None:
    """Threads of an OpenMP pool are not there in a forked process.

    GNU's would be waited for, forever.
    """
    global _forked
    _forked = True


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_after_fork)
