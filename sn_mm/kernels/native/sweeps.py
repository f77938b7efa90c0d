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

import torch
from torch import Tensor

from .. import aten
from ..layout import dense, is_channels_last
from . import factors as factors
from .calibration import Choice, Variant, choose
from .library import Library
from .tensors import (
    array_address,
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
# No multiplications contracted with additions: a value must not depend on
# whether it was computed with a group of others or with the rest of a row.
_FLAGS = ('-O2', '-ffp-contract=off')
_LIBRARIES = {
    dtype: Library(_SOURCE, _FUNCTIONS, (*_FLAGS, *flags))
    for dtype, *flags in (
        (torch.float32,),
        (torch.float16, '-DFLOAT16'),
        (torch.bfloat16, '-DBFLOAT16'),
    )
}
_ready: dict[torch.dtype, ctypes.CDLL] = {}  # tuned for this machine
_choice: Choice | None = None


def describe_library() -> str:
    """How the sweeps were set up for this machine."""
    if _sweeps_for(torch.float32) is None:
        return _LIBRARIES[torch.float32].why_not()
    return f'{_choice.variant} ({_choice.origin})'


def use_variant(variant: Variant | None) -> None:
    """Use this variant; results do not depend on it.

    Args:
        variant: None stands for the one that suits this machine.
    """
    global _choice
    _choice = variant and Choice(variant, 'as asked for')
    _ready.clear()


def _sweeps_for(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The library for inputs of a dtype, tuned; None where there is none."""
    global _choice
    library = _ready.get(dtype)
    if library is None and dtype in _LIBRARIES:
        source = _LIBRARIES[dtype]
        library = source.get()
        if library is not None:
            if _choice is None:
                _choice = choose(library, dtype, source.files())
            library.sweeps_tune(*_choice.variant)
            _ready[dtype] = library
    return library


def compile_command() -> list[str]:
    """Compiler and flags of the sweeps over float32, for reports."""
    return _LIBRARIES[torch.float32].command()


def why_not(x: Tensor) -> str | None:
    """Why C cannot take x (N, C, *spatial), not empty; None where it can."""
    if x.dtype in _ready and array_address(x, x.dtype):
        return None  # the usual case: every layer asks this
    reason = why_not_array(x)
    if reason and not can_materialize(x):
        return reason
    if x.dtype not in _LIBRARIES:
        return f'its dtype is {x.dtype}'
    if _sweeps_for(x.dtype) is None:
        return _LIBRARIES[x.dtype].why_not()
    return None


def moments(x: Tensor) -> Tensor:
    """See :func:`sn_mm.kernels.aten.moments`."""
    rows = Rows.from_tensor(x)
    if rows is None:
        return aten.moments(x)
    out = doubles(2, rows.samples, rows.channels)
    rows.library.sweeps_moments(*rows.x, out.data_ptr(), thread_count())
    return out


def affine(
    x: Tensor, near: Tensor, scale: Tensor, shift: Tensor, relu: bool = False
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.affine`."""
    rows = Rows.from_tensor(x)
    if rows is None:
        return aten.affine(x, near, scale, shift, relu)
    y = torch.empty_like(rows.data)
    rows.library.sweeps_affine(
        *rows.x,
        rows.factor(near),
        rows.factor(scale),
        rows.factor(shift),
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
    rows = Rows.from_tensor(x, dy)
    if rows is None:
        return aten.products(dy, x, near, gate)
    out = doubles(2, rows.samples, rows.channels)
    rows.library.sweeps_products(
        rows.dy,
        *rows.x,
        rows.factor(near),
        *rows.gate(gate),
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
    rows = Rows.from_tensor(x, dy)
    if rows is None:
        return aten.combine(dy, x, scale, near, slope, shift, gate)
    dx = torch.empty_like(rows.data)
    rows.library.sweeps_combine(
        rows.dy,
        *rows.x,
        rows.factor(scale),
        rows.factor(near),
        rows.factor(slope),
        rows.factor(shift),
        *rows.gate(gate),
        dx.data_ptr(),
        thread_count(),
    )
    return dx


def remeasure(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`sn_mm.kernels.aten.remeasure`."""
    rows = Rows.from_tensor(x, dy)
    if rows is None:
        return aten.remeasure(dy, x)
    measured = doubles(2, rows.samples, rows.channels)
    sums = doubles(2, rows.samples, rows.channels)
    rows.library.sweeps_remeasure(
        rows.dy,
        *rows.x,
        measured.data_ptr(),
        sums.data_ptr(),
        thread_count(),
    )
    return measured, sums


class Rows:
    """x, and dy, as C reads them. What has an address here is kept alive.

    Attributes:
        data: x without gaps in memory.
        samples, channels: N and C.
        x: the address of ``data``, N, C, S, and whether channels are last in
            memory.
        dy: the address of dy, in x's dtype and memory format; or None.
        library: the sweeps for this dtype.
    """

    __slots__ = (
        'data',
        'samples',
        'channels',
        'shape',
        'x',
        'dy',
        'library',
        '_kept',
    )

    @classmethod
    def from_tensor(cls, x: Tensor, dy: Tensor | None = None) -> Rows | None:
        """None where C cannot read them."""
        dtype, last = x.dtype, False
        address = array_address(x, dtype)
        if not address:
            if why_not(x) is not None:
                return None
            last = is_channels_last(x)
            x = dense(materialized(x), last)
            address = x.data_ptr()
        library = _ready.get(dtype) or _sweeps_for(dtype)
        if library is None:
            return None
        rows = cls()
        rows._kept = []
        rows.data, rows.library, rows.dy = x, library, None
        if dy is not None:
            rows.dy = rows._gradient(dy, last)
            if not rows.dy:
                return None
        rows.shape = shape = x.shape
        rows.samples, rows.channels = n, c = shape[0], shape[1]
        size = x.numel() // (n * c)
        # a single position is as good a row of channels as of positions
        rows.x = address, n, c, size, last or size == 1
        return rows

    def _gradient(self, dy: Tensor, last: bool) -> int:
        """Address of dy in memory as x is; 0 where there is none."""
        x = self.data
        if dy.shape != x.shape:
            raise ValueError(
                f'the gradient has shape {tuple(dy.shape)}, the input '
                f'{tuple(x.shape)}'
            )
        address = 0 if last else array_address(dy, x.dtype)
        if not address:
            if why_not_array(dy) and not can_materialize(dy):
                return 0
            dy = dense(materialized(dy).to(x.dtype), last)
            self._kept.append(dy)
            address = dy.data_ptr()
        return address

    def factor(self, t: Tensor) -> int:
        """Address of a factor of rows, (N, C)."""
        shape = t.shape
        if shape[0] != self.samples or shape[1:] != (self.channels,):
            raise ValueError(
                f'a factor of rows has shape {tuple(shape)}, but an input of '
                f'shape {tuple(self.shape)} needs '
                f'{(self.samples, self.channels)}'
            )
        address = array_address(t, torch.float32)
        if not address:
            t = as_array(t, torch.float32, 'a factor of rows')
            self._kept.append(t)
            address = t.data_ptr()
        return address

    def gate(
        self, gate: tuple[Tensor, Tensor] | None
    ) -> tuple[int | None, int | None]:
        """Addresses of its scale and shift."""
        if gate is None:
            return None, None
        return self.factor(gate[0]), self.factor(gate[1])


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
