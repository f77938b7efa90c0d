# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which tensors C can read as arrays, and where they are.

This runs several times in every layer, so it asks each question once.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import Parameter

_TYPES = (Tensor, Parameter)
# asked for fresh memory: in half the time that torch.empty takes
_DOUBLE = torch.empty(0, dtype=torch.float64, device='cpu')
_FLOAT = torch.empty(0, dtype=torch.float32, device='cpu')
_kept = threading.local()


def array_address(t: Tensor, dtype: torch.dtype) -> int:
    """Where t is, as an array without gaps; 0 if C cannot read it so.

    0 as well for a tensor without elements.
    """
    if type(t) in _TYPES and t.dtype is dtype and t.is_cpu and not t.is_neg():
        try:  # a layout that is not strided, or functorch's wrapper, raises
            return t.data_ptr() if t.is_contiguous() else 0
        except RuntimeError:
            return 0
    return 0


def strided_address(t: Tensor, dtype: torch.dtype) -> int:
    """Where t's first element is; 0 if C cannot read t by its strides."""
    if type(t) in _TYPES and t.dtype is dtype and t.is_cpu and not t.is_neg():
        return _address(t) if t.layout is torch.strided else 0
    return 0


def _address(t: Tensor) -> int:
    try:
        return t.data_ptr()  # 0 for a zero tensor
    except RuntimeError:  # what functorch wraps has no storage
        return 0


def why_not_array(t: Tensor) -> str | None:
    """Why C cannot read t, in a few words; None where it can.

    Whether t is contiguous, and its dtype, is for the caller to ask.
    """
    if type(t) not in _TYPES:
        return f'it is a {type(t).__name__}, a subclass of Tensor'
    if not t.is_cpu:
        return f'it is on {t.device}, not on the CPU'
    if t.layout is not torch.strided:
        return f'its layout is {t.layout}'
    if t.is_neg() or t.is_conj():
        return 'its values are those in memory with another sign'
    if _address(t) == 0 and t.numel() > 0:
        return 'it has no memory of its own'
    return None


def as_array(t: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """t as C can read it: itself, or a copy.

    Raises:
        TypeError: if it has no values that C could read; ``name`` says what
            it is.
    """
    if array_address(t, dtype):
        return t
    t = t.detach()  # also from a wrapper that torch.func has left behind
    reason = why_not_array(t)
    if t.is_complex():
        reason = f'its dtype is {t.dtype}'
    if reason and not can_materialize(t):
        raise TypeError(f'{name} cannot be computed with on the CPU: {reason}')
    return materialized(t).to(dtype).contiguous()


def can_materialize(t: Tensor) -> bool:
    """Whether :func:`materialized` makes an array of t."""
    plain = type(t) in _TYPES and t.is_cpu and t.layout is torch.strided
    plain = plain and not t.is_complex()
    return plain and (t.is_neg() or t._is_zerotensor())


def materialized(t: Tensor) -> Tensor:
    """t with the values in memory that it stands for."""
    if t.is_neg():
        t = t.resolve_neg()
    return t.clone() if t._is_zerotensor() else t


def doubles(*shape: int) -> Tensor:
    """Fresh float64 memory; whatever the default device and dtype are."""
    return _DOUBLE.new_empty(shape)


def floats(*shape: int) -> Tensor:
    """Fresh float32 memory."""
    return _FLOAT.new_empty(shape)


def scratch(name: str, count: int) -> int:
    """Address of ``count`` doubles of this thread, to be used again.

    Large fresh memory costs a page fault every 4 KB, a third of what is then
    computed in it.
    """
    kept = getattr(_kept, name, None)
    if kept is None or kept[0] < count:
        memory = doubles(count)
        kept = count, memory.data_ptr(), memory
        setattr(_kept, name, kept)
    return kept[1]
