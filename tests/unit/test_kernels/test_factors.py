# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What stands between a rule and the sweeps, against autograd through x."""

from __future__ import annotations

import pytest
import torch

from sn_mm.kernels import factors as plain
from sn_mm.kernels.native import factors as native

N, C, S = 3, 5, 7
SHAPES = ((N, C), (1, C), (N, 1), (1, 1), (C,), ())
both = pytest.mark.parametrize('made', [plain, native], ids=['aten', 'c'])


def drawn(*shape, seed):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=gen, dtype=torch.double)


def of_rows(seed=0):
    """x about large means, its moments, and a gradient of the output."""
    x = drawn(N, C, S, seed=seed) + 300 * drawn(N, C, 1, seed=seed + 1)
    moments = torch.stack([x.mean(2), x.var(2, unbiased=False)])
    return x, moments, drawn(N, C, S, seed=seed + 2)


def sums_about(near, x, dy):
    centred = x - near.double()[..., None]
    return torch.stack([dy.sum(2), (dy * centred).sum(2)])


@both
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('place', range(3))
def test_output(made, shape, place):
    x, moments, _ = of_rows()
    rule = [drawn(N, C, seed=s) for s in (5, 6, 7)]
    rule[place] = drawn(*shape, seed=8)
    near, scale, shift = made.of_output(moments, *rule, torch.float32)
    assert near.dtype == scale.dtype == shift.dtype == torch.float32
    assert near.shape == scale.shape == shift.shape == (N, C)
    centre, wide, bias = (t.expand(N, C) for t in rule)
    torch.testing.assert_close(near, moments[0].float(), rtol=0, atol=0)
    torch.testing.assert_close(scale, wide.float(), rtol=0, atol=0)
    want = bias - wide * (centre - near.double())
    torch.testing.assert_close(shift.double(), want, rtol=1e-7, atol=1e-7)


@both
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('place', range(3))
def test_cotangents(made, shape, place):
    x, moments, dy = of_rows()
    rule = [drawn(N, C, seed=s) for s in (5, 6, 7)]
    rule[place] = drawn(*shape, seed=8)
    leaves = [t.clone().requires_grad_() for t in rule]
    centre, scale, bias = (t.expand(N, C)[..., None] for t in leaves)
    want = torch.autograd.grad(scale * (x - centre) + bias, leaves, dy)
    sums = sums_about(moments[0].float(), x, dy)
    got = made.cotangents(moments, sums, *rule, torch.float32)
    for g, w in zip(got, want):
        assert g.shape == w.shape
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-9)


@both
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_gradient(made, shape):
    """Through the moments, of a loss by them alone."""
    x, _, dy = of_rows()
    x.requires_grad_()
    moments = torch.stack([x.mean(2), x.var(2, unbiased=False)])
    d_moments, scale = drawn(2, N, C, seed=9), drawn(*shape, seed=10)
    (want,) = torch.autograd.grad(moments, x, d_moments, retain_graph=True)
    want = want + scale.expand(N, C)[..., None] * dy
    moments, x = moments.detach(), x.detach()
    a, slope, shift = (
        t.double()[..., None]
        for t in made.of_gradient(moments, scale, d_moments, S, torch.float32)
    )
    near = moments[0].float().double()[..., None]
    got = a * dy + slope * (x - near) + shift
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@both
def test_moments_that_nothing_came_through(made):
    _, moments, _ = of_rows()
    scale = drawn(1, C, seed=3)
    a, slope, shift = made.of_gradient(moments, scale, None, S, torch.float32)
    torch.testing.assert_close(a, scale.float().expand(N, C))
    assert not slope.any() and not shift.any()
