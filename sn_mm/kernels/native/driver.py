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
        'driver_forward': (_P, _P, *_SHAPE, *(_I, _P, _P, _P, _I, _P, _P, _I)),
        'driver_forward_blocks': (
            *(_P, _P, *_SHAPE),
            *(_I, _I, _P, _P, _P, _I, _P, _P, _I, _I),
        ),
        'driver_backward': (_P, _P, _P, *_SHAPE, _P, _P, _P, _P, _P, _P, _I),
    },
    ('-O2',),
)
_CACHE = 1 << 19  # bytes that stay in a second-level cache, with output
_BLOCKS_EACH = 4  # at least, for threads that take blocks of their own
_SWEEPS = ('moments', 'affine', 'products', 'remeasure', 'combine')


def why_not() -> str | None:
    """Why there is no driver; None where there is."""
    return _library.why_not()


def forward(
    rows: Rows, numbers: int, of: ctypes.Structure, keep: bool, relu: bool
) -> tuple[Tensor, Tensor | None]:
    """y, and the moments (2, N, C) of x, float64, with ``keep``.

    Args:
        rows: x as C reads it.
        numbers: address of a ``forward_numbers`` of driver.c.
        of: its first argument.
        relu: max(y, 0).
    """
    y = torch.empty_like(rows.data)
    moments = doubles(2, rows.samples, rows.channels) if keep else None
    _library.get().driver_forward(
        _sweeps(rows.library),
        *rows.x,
        _sample_bytes(rows),
        None if moments is None else moments.data_ptr(),
        numbers,
        ctypes.addressof(of),
        relu,
        y.data_ptr(),
        scratch('rows', 4 * rows.samples * rows.channels),
        thread_count(),
    )
    return y, moments


def forward_by_sample(
    rows: Rows,
    common: int,
    numbers: int,
    of: ctypes.Structure,
    relu: bool,
) -> Tensor:
    """y, where a sample's numbers depend on no other sample's.

    Args:
        common: address of a ``common_numbers`` of driver.c, which is called
            once.
        numbers: of a ``forward_numbers``, called for some samples at a time,
            and by several threads at once.
        others: as for :func:`forward`.
    """
    y = torch.empty_like(rows.data)
    sample, threads = _sample_bytes(rows), thread_count()
    block = max(1, min(rows.samples, _CACHE // sample))
    apart = rows.samples >= _BLOCKS_EACH * block * threads
    workers = threads if apart and sample <= _CACHE else 1
    _library.get().driver_forward_blocks(
        _sweeps(rows.library),
        *rows.x,
        sample,
        block,
        common,
        numbers,
        ctypes.addressof(of),
        relu,
        y.data_ptr(),
        scratch('rows', 4 * workers * block * rows.channels),
        workers,
        threads,
    )
    return y


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


def _sample_bytes(rows: Rows) -> int:
    _, _, c, size, _ = rows.x
    return c * size * rows.data.element_size()


@functools.cache
def _sweeps(library: ctypes.CDLL) -> ctypes.Array:
    """The addresses of a dtype's sweeps: ``sweeps`` of driver.c."""
    return (_P * len(_SWEEPS))(
        *(
            ctypes.cast(getattr(library, f'sweeps_{name}'), _P).value
            for name in _SWEEPS
        )
    )
