# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Between a rule and the sweeps in C (factors.c).

The same functions as in :mod:`sn_mm.kernels.factors`, which gets what C
cannot read.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from .. import factors as plain
from ..factors import Factors
from .library import Library, check_fields
from .tensors import array_address, doubles, floats, scratch, strided_address

_P, _I, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double


class _Numbers(ctypes.Structure):
    """``numbers`` of factors.c."""

    _fields_ = [('at', _P), ('by_sample', _I), ('by_channel', _I)]


_library = Library(
    Path(__file__).with_name('factors.c'),
    {
        'factors_of_output': (_I, _I, _P, _P, _P, _P),
        'factors_cotangents': (_I, _I, _P, _P, _P, _P, _P),
        'factors_of_gradient': (_I, _I, _D, _P, _P, _P, _P, _P),
    },
    ('-O3',),
    lambda library: check_fields(library, 'factors_fields', _Numbers),
)


def of_output(
    moments: Tensor,
    centre: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> Factors:
    """See :func:`sn_mm.kernels.factors.of_output`."""
    rule = _numbers(dtype, centre, scale, bias)
    at = array_address(moments, torch.float64)
    if rule is None or not at:
        return plain.of_output(moments, centre, scale, bias, dtype)
    _, n, c = moments.shape
    factors = floats(3, n, c)
    _library.get().factors_of_output(
        n, c, at, rule, factors.data_ptr(), scratch('factors', 3 * c)
    )
    return factors.unbind()


def cotangents(
    moments: Tensor,
    sums: Tensor,
    centre: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`sn_mm.kernels.factors.cotangents`."""
    results = centre, scale, bias
    rule = _numbers(dtype, *results)
    at = array_address(moments, torch.float64)
    sums_at = array_address(sums, torch.float64)
    if rule is None or not at or not sums_at:
        return plain.cotangents(moments, sums, *results, dtype)
    _, n, c = moments.shape
    gradients = tuple(doubles(*t.shape) for t in results)
    _library.get().factors_cotangents(
        *(n, c, at, sums_at, rule, _numbers(dtype, *gradients)),
        scratch('factors', 4 * c),
    )
    return gradients


def of_gradient(
    moments: Tensor,
    scale: Tensor,
    d_moments: Tensor | None,
    size: int,
    dtype: torch.dtype,
) -> Factors:
    """See :func:`sn_mm.kernels.factors.of_gradient`."""
    given = _numbers(dtype, scale)
    at = array_address(moments, torch.float64)
    from_at = 0
    if d_moments is not None:
        from_at = array_address(d_moments, torch.float64)
    if given is None or not at or not from_at:
        return plain.of_gradient(moments, scale, d_moments, size, dtype)
    _, n, c = moments.shape
    factors = floats(3, n, c)
    _library.get().factors_of_gradient(
        *(n, c, size, at, given, from_at, factors.data_ptr()),
        scratch('factors', c),
    )
    return factors.unbind()


def _numbers(dtype: torch.dtype, *tensors: Tensor) -> ctypes.Array | None:
    """Where tensors are that broadcast to (N, C), and their steps.

    None if C cannot read them, or writes no factors of this dtype.
    """
    if dtype is not torch.float32 or _library.get() is None:
        return None
    found = (_Numbers * len(tensors))()
    for own, t in zip(found, tensors):
        own.at = strided_address(t, torch.float64)
        if not own.at:
            return None
        steps = [k if s > 1 else 0 for s, k in zip(t.shape, t.stride())]
        own.by_sample, own.by_channel = ([0, 0] + steps)[-2:]
    return found
