# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from sn_mm.kernels.layout import (
    accumulation_dtype,
    cast,
    dense,
    is_channels_last,
    is_worth_keeping,
    spatial_size,
    widen,
)


@pytest.mark.parametrize(
    'shape, size', [((2, 3), 1), ((2, 3, 5), 5), ((0, 3, 4, 5), 20)]
)
def test_positions_of_a_row(shape, size):
    assert spatial_size(torch.empty(shape)) == size


def test_precision():
    half, single, double = (
        torch.zeros(1, dtype=t)
        for t in (torch.bfloat16, torch.float32, torch.float64)
    )
    assert accumulation_dtype(half.dtype) is torch.float32
    assert accumulation_dtype(double.dtype) is torch.float64
    assert cast(single, torch.float32) is single
    assert cast(half, torch.float32).dtype is torch.float32
    assert widen(single).dtype is torch.float64


def test_channels_last_is_what_is_not_contiguous_as_well():
    x = torch.randn(2, 3, 4, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    assert is_channels_last(last) and not is_channels_last(x)
    # a single channel, or position, lies the same either way
    assert not is_channels_last(torch.randn(2, 1, 4, 5))
    assert not is_channels_last(last[:, :, ::2])
    deep = torch.randn(2, 3, 4, 5, 6)
    assert is_channels_last(
        deep.contiguous(memory_format=torch.channels_last_3d)
    )
    assert not is_channels_last(torch.randn(2, 4, 3).transpose(1, 2))


def test_without_gaps():
    x = torch.randn(2, 3, 8, 5)[:, :, ::2]
    assert torch.equal(dense(x, False), x) and dense(x, False).is_contiguous()
    last = dense(x, True)
    assert torch.equal(last, x) and is_channels_last(last)
    assert dense(last, True) is last


def test_moments_of_short_rows_are_measured_again():
    """16 bytes a row beside 2% of the input."""
    assert not is_worth_keeping(torch.empty(2, 3, 7, 7))
    assert is_worth_keeping(torch.empty(2, 3, 20, 10))
    assert not is_worth_keeping(torch.empty(2, 3, 20, 10).half())
    assert is_worth_keeping(torch.empty(2, 3, 20, 20).half())
