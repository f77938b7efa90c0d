# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Each sweep of PyTorch's kernels, against its definition in float64."""

import pytest
import torch
from torch import Tensor

from sn_mm.kernels import aten
from tests.utils import relative_error

SHAPES = [(3, 4, 7, 5), (1, 6, 1, 1), (17, 4, 7, 7), (5, 6), (2, 4, 3, 4, 2)]
DTYPES = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 8e-3}
CASES = pytest.mark.parametrize('shape', SHAPES, ids=str)
PRECISIONS = pytest.mark.parametrize('dtype', DTYPES, ids=str)


def draw(shape, seed: int = 0, dtype=torch.float32) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=gen).to(dtype)


def wide(t: Tensor, shape=None) -> Tensor:
    """float64; numbers of rows as they broadcast over positions."""
    t = t.double()
    return t if shape is None else t.reshape(*t.shape, *[1] * (len(shape) - 2))


def factors(shape, dtype, count: int) -> list[Tensor]:
    made = torch.float64 if dtype is torch.float64 else torch.float32
    return [draw(shape[:2], 10 + i, made) for i in range(count)]


@CASES
@PRECISIONS
def test_moments(shape, dtype):
    x = draw(shape, dtype=dtype) + 3
    rows = x.double().reshape(*shape[:2], -1)
    want = rows.mean(-1), rows.var(-1, unbiased=False)
    got = aten.moments(x)
    assert got.dtype == torch.float64 and got.shape == (2, *shape[:2])
    for a, b in zip(got, want):
        assert relative_error(a, b, floor=1.0) < min(DTYPES[dtype], 2e-6)


@pytest.mark.parametrize('mean', [1e2, 1e4, 1e6])
def test_moments_about_a_large_mean(mean):
    x = draw((2, 3, 40, 50)) + mean
    rows = x.double().flatten(2)
    got = aten.moments(x)
    assert relative_error(got[0] - mean, rows.mean(-1) - mean) < 1e-4
    assert relative_error(got[1], rows.var(-1, unbiased=False)) < 1e-4


@pytest.mark.parametrize('relu', [False, True])
@CASES
@PRECISIONS
def test_affine(shape, dtype, relu):
    x = draw(shape, dtype=dtype)
    near, scale, shift = factors(shape, dtype, 3)
    got = aten.affine(x, near, scale, shift, relu)
    near, scale, shift = (wide(t, shape) for t in (near, scale, shift))
    want = scale * (x.double() - near) + shift
    assert got.dtype == dtype and got.shape == x.shape
    want = want.relu() if relu else want
    assert relative_error(got, want, floor=1.0) < DTYPES[dtype]


def gate_of(x, near, shape, dtype):
    """Scale and shift of an affine with ReLU, and where it was positive."""
    scale, shift = factors(shape, dtype, 5)[3:]
    y = wide(scale, shape) * (x.double() - wide(near, shape))
    return (scale, shift), y + wide(shift, shape) > 0


@pytest.mark.parametrize('gated', [False, True])
@CASES
@PRECISIONS
def test_products(shape, dtype, gated):
    x, dy = draw(shape, dtype=dtype), draw(shape, 1, dtype)
    (near,) = factors(shape, dtype, 1)
    gate, counts = gate_of(x, near, shape, dtype) if gated else (None, 1)
    got = aten.products(dy, x, near, gate)
    own = dy.double() * counts
    about = own * (x.double() - wide(near, shape))
    for a, b in zip(got, (own, about)):
        b = b.reshape(*shape[:2], -1).sum(-1)
        assert relative_error(a, b, floor=1.0) < min(DTYPES[dtype], 1e-5)


@pytest.mark.parametrize('gated', [False, True])
@CASES
@PRECISIONS
def test_combine(shape, dtype, gated):
    x, dy = draw(shape, dtype=dtype), draw(shape, 1, dtype)
    near, scale, slope = factors(shape, dtype, 3)
    shift = draw(shape[:2], 20, near.dtype)
    gate, counts = gate_of(x, near, shape, dtype) if gated else (None, 1)
    got = aten.combine(dy, x, scale, near, slope, shift, gate)
    near, scale, slope, shift = (
        wide(t, shape) for t in (near, scale, slope, shift)
    )
    want = scale * dy.double() * counts + slope * (x.double() - near) + shift
    assert got.dtype == dtype
    assert relative_error(got, want, floor=1.0) < DTYPES[dtype]


@CASES
def test_remeasure(shape):
    x, dy = draw(shape), draw(shape, 1)
    moments, sums = aten.remeasure(dy, x)
    assert torch.equal(moments, aten.moments(x))
    want = aten.products(dy, x, moments[0].float())
    assert torch.equal(sums, want)


@pytest.mark.parametrize('last', [False, True])
def test_results_are_fresh_and_laid_out_as_the_input(last):
    form = torch.channels_last if last else torch.contiguous_format
    x = draw((3, 4, 7, 5)).contiguous(memory_format=form)
    near, scale, shift = factors(x.shape, x.dtype, 3)
    for y in (
        aten.affine(x, near, scale, shift),
        aten.combine(x, x, scale, near, scale, shift),
    ):
        assert y.is_contiguous(memory_format=form)
        assert y._base is None


def test_it_takes_every_input():
    assert aten.name == 'aten' and aten.why_not(draw((2, 3))) is None
    zeros = torch._efficientzerotensor((2, 3, 4))
    assert not aten.moments(zeros).any()
