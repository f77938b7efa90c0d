# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which tensors C can read, and copies of those that it cannot."""

from __future__ import annotations

import ctypes
import threading

import pytest
import torch
from torch import nn

from sn_mm.kernels.native.tensors import (
    array_address,
    as_array,
    can_materialize,
    doubles,
    floats,
    materialized,
    scratch,
    why_not_array,
)


class Sub(torch.Tensor):
    """A subclass, whose memory may mean something else."""


def negative(t):
    return torch.complex(torch.zeros_like(t), -t).conj().imag


X = torch.arange(6.0).view(2, 3)
BAD = {
    'subclass': (X.as_subclass(Sub), 'subclass of Tensor'),
    'device': (X.to('meta'), 'on meta'),
    'sparse': (X.to_sparse(), 'layout is torch.sparse_coo'),
    'negative': (negative(X), 'another sign'),
    'zero': (torch._efficientzerotensor((2, 3)), 'no memory of its own'),
}


@pytest.mark.parametrize('t', [X, nn.Parameter(X), X.double(), X[1:]])
def test_arrays_have_their_own_address(t):
    assert array_address(t, t.dtype) == t.data_ptr() != 0
    assert why_not_array(t) is None
    assert as_array(t, t.dtype, 'x') is t


def test_other_dtypes_and_gaps_have_none():
    assert array_address(X, torch.float64) == 0
    assert array_address(X.T, torch.float32) == 0
    # nothing is wrong with them but that: they are copied
    assert why_not_array(X.T) is None
    made = as_array(X.T, torch.float64, 'x')
    assert torch.equal(made, X.T.double()) and made.is_contiguous()


@pytest.mark.parametrize('kind', BAD)
def test_what_c_cannot_read_is_told(kind):
    t, why = BAD[kind]
    assert array_address(t, torch.float32) == 0
    assert why in why_not_array(t)


def test_copies_have_the_values_that_are_meant():
    for kind in ('negative', 'zero'):
        t, _ = BAD[kind]
        assert can_materialize(t)
        made = as_array(t, torch.float32, 'x')
        assert array_address(made, torch.float32)
        assert torch.equal(made, X if kind == 'negative' else 0 * X)
        assert not materialized(t).is_neg()
    for kind in ('subclass', 'device', 'sparse'):
        with pytest.raises(TypeError, match='^the scale cannot be computed'):
            as_array(BAD[kind][0], torch.float32, 'the scale')


def test_wrappers_that_outlive_their_transform_are_read():
    left: list[torch.Tensor] = []

    def keeps(t):
        left.append(t)
        return t.sum()

    torch.func.grad(keeps)(X)
    assert array_address(left[0], torch.float32) == 0
    made = as_array(left[0], torch.float32, 'x')
    assert array_address(made, torch.float32) and torch.equal(made, X)


def test_memory_is_on_the_cpu_whatever_the_defaults():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device('meta'):
            made = doubles(2, 3), floats(4)
    finally:
        torch.set_default_dtype(before)
    assert [t.dtype for t in made] == [torch.float64, torch.float32]
    assert all(t.is_cpu for t in made)
    assert [tuple(t.shape) for t in made] == [(2, 3), (4,)]


def test_scratch_is_used_again_and_each_threads_own():
    first = scratch('of this test', 100)
    assert scratch('of this test', 50) == first
    assert scratch('of another', 50) != first
    ctypes.memset(first, 0, 800)  # it is ours to write
    elsewhere = []
    thread = threading.Thread(
        target=lambda: elsewhere.append(scratch('of this test', 100))
    )
    thread.start()
    thread.join()
    assert elsewhere[0] != first
    ctypes.memset(scratch('of this test', 100_000), 0, 800_000)
