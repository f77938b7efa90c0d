# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Both sweeps of a pass in one call of C (driver.c).

What lies between them is a C function too, given by its address; nothing
here knows a normalizer.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from .library import Library
from .sweeps import Rows, thread_count
from .tensors import doubles, scratch

_P, _I = ctypes.c_void_p, ctypes.c_int64
_SHAPE = (_I, _I, _I, _I)
_library = Library(
    Path(__file__).with_name('driver.c'),
    {
        'driver_forward': (
            _P,
            _P,
            *_SHAPE,
            _I,
            _I,
            _P,
            _P,
            _P,
            _I,
            _P,
            _P,
            _I,
        ),
        'driver_backward': (_P, _P, _P, *_SHAPE, _P, _P, _P, _P, _P, _P, _I),
    },
    ('-O2',),
)
_CACHE = 1 << 19  # bytes that stay in a second-level cache, with output
_SWEEPS = ('moments', 'affine', 'products', 'remeasure', 'combine', 'expect')


def why_not() -> str | None:
    """Why there is no driver; None where there is."""
    return _library.why_not()


def forward(
    rows: Rows,
    numbers: int,
    of: ctypes.Structure,
    keep: bool,
    relu: bool,
    by_sample: bool,
) -> tuple[Tensor, Tensor | None]:
    """y, and the moments (2, N, C) of x, float64, with ``keep``.

    Args:
        rows: x as C reads it.
        numbers: address of a ``forward_numbers`` of driver.c.
        of: its first argument.
        relu: max(y, 0).
        by_sample: a sample's numbers depend on no other's; with it, moments
            cannot be kept.
    """
    y = torch.empty_like(rows.data)
    moments = None
    if keep and not by_sample:
        moments = doubles(2, rows.samples, rows.channels)
    _, n, c, size, _ = rows.x
    sample = c * size * y.element_size()
    block = max(1, min(n, _CACHE // sample)) if by_sample else n
    _library.get().driver_forward(
        _sweeps(rows.library),
        *rows.x,
        block,
        sample,
        None if moments is None else moments.data_ptr(),
        numbers,
        ctypes.addressof(of),
        relu,
        y.data_ptr(),
        scratch('rows', 4 * rows.samples * rows.channels),
        thread_count(),
    )
    return y, moments


def backward(
    rows: Rows,
    moments: Tensor | None,
    numbers: int,
    of: ctypes.Structure,
    gate: int | None,
    wanted: bool,
) -> Tensor | None:
    """The gradient of x, if it is wanted.

    Args:
        rows: dy and x as C reads them.
        moments: what :func:`forward` kept of x.
        numbers: address of a ``backward_numbers`` of driver.c.
        of: its first argument, and the gate's.
        gate: address of the ``forward_numbers`` of the forward pass, where a
            ReLU followed it.
    """
    dx = torch.empty_like(rows.data) if wanted else None
    _library.get().driver_backward(
        _sweeps(rows.library),
        rows.dy,
        *rows.x,
        None if moments is None else moments.data_ptr(),
        numbers,
        ctypes.addressof(of),
        gate,
        None if dx is None else dx.data_ptr(),
        scratch('rows', 8 * rows.samples * rows.channels),
        thread_count(),
    )
    return dx


@functools.cache
def _sweeps(library: ctypes.CDLL) -> ctypes.Array:
    """The addresses of a dtype's sweeps: ``sweeps`` of driver.c."""
    return (_P * len(_SWEEPS))(
        *(
            ctypes.cast(getattr(library, f'sweeps_{name}'), _P).value
            for name in _SWEEPS
        )
    )
