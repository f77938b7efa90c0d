# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Statistics from rows' moments are the moments over the axes themselves."""

import pytest
import torch

from sn_mm.functional import statistics

SHAPE = (3, 8, 4, 5)
AXES = {'instance': 2, 'layer': (1, 2), 'batch': (0, 2)}


def rows(offset=0.0, seed=0):
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=gen, dtype=torch.double) + offset
    return x.flatten(2).requires_grad_()


def moments(x):
    return x.mean(-1), x.var(-1, unbiased=False)


def direct(x, dims):
    mean = x.mean(dims, keepdim=True)
    return mean[..., 0], (x - mean).square().mean(dims, keepdim=True)[..., 0]


def call(name, m, v):
    size = (SHAPE[2] * SHAPE[3],) if name == 'batch' else ()
    return getattr(statistics, name)(m, v, *size)


@pytest.mark.parametrize('offset', [0.0, 1e6])
@pytest.mark.parametrize('name', AXES)
def test_values_and_gradients(name, offset):
    x = rows(offset)
    got, want = call(name, *moments(x)), direct(x, AXES[name])
    for a, b in zip(got, want):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        weights = torch.randn(a.shape, dtype=torch.double)
        first, second = (
            torch.autograd.grad((t * weights).sum(), x, retain_graph=True)[0]
            for t in (a, b)
        )
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('groups', [1, 2, 8])
def test_groups(groups):
    x = rows()
    grouped = x.reshape(SHAPE[0], groups, -1)
    got = statistics.group(*moments(x), groups)
    for a, b in zip(got, direct(grouped, 2)):
        want = b.repeat_interleave(SHAPE[1] // groups, 1)
        torch.testing.assert_close(a, want)


def test_groups_that_do_not_divide():
    with pytest.raises(ValueError, match='num_groups=3 does not divide.*8'):
        statistics.group(*moments(rows()), 3)


def test_running_moments_are_those_given():
    given = torch.randn(8), torch.rand(8)
    for a, b in zip(statistics.running(*moments(rows()), *given), given):
        assert a.dtype == torch.float64 and a.shape == (1, 8)
        torch.testing.assert_close(a[0], b.double())


def test_no_samples_have_zeros_that_keep_the_gradient():
    m = torch.zeros(0, 8, requires_grad=True)
    mean, var = statistics.batch(m, m * 1, 20)
    assert mean.shape == var.shape == (1, 8)
    assert not mean.any() and not var.any()
    (grad,) = torch.autograd.grad(mean.sum() + var.sum(), m)
    assert grad.shape == m.shape
