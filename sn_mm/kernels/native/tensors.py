# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which tensors C can read as arrays, and where they are."""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import Parameter

_TYPES = (Tensor, Parameter)
_kept = threading.local()


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
    try:
        empty_handed = t.data_ptr() == 0 and t.numel() > 0
    except RuntimeError:  # what functorch wraps has no storage
        empty_handed = True
    return 'it has no memory of its own' if empty_handed else None


def is_array(t: Tensor, dtype: torch.dtype) -> bool:
    """Whether C can read t as an array of that dtype without gaps."""
    return t.dtype is dtype and t.is_contiguous() and why_not_array(t) is None


def as_array(t: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """t as C can read it: itself, or a copy.

    Raises:
        TypeError: if it has no values that C could read; ``name`` says what
            it is.
    """
    if is_array(t, dtype):
        return t
    t = materialized(t.detach().to(dtype)).contiguous()
    reason = why_not_array(t)
    if reason:
        raise TypeError(f'{name} cannot be computed with on the CPU: {reason}')
    return t


def can_materialize(t: Tensor) -> bool:
    """Whether :func:`materialized` makes an array of t."""
    plain = type(t) in _TYPES and t.is_cpu and t.layout is torch.strided
    return plain and (t.is_neg() or t._is_zerotensor())


def materialized(t: Tensor) -> Tensor:
    """t with the values in memory that it stands for."""
    if t.is_neg():
        t = t.resolve_neg()
    return t.clone() if t._is_zerotensor() else t


def address(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def doubles(*shape: int) -> Tensor:
    # the default device may be another
    return torch.empty(shape, dtype=torch.float64, device='cpu')


def scratch(name: str, count: int) -> Tensor:
    """At least ``count`` doubles of this thread, to be used again.

    Large fresh memory costs a page fault every 4 KB, a third of what is then
    computed in it.
    """
    kept = getattr(_kept, name, None)
    if kept is None or kept.numel() < count:
        kept = doubles(count)
        setattr(_kept, name, kept)
    return kept
