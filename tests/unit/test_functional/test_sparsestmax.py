# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SparsestMax is the projection that it is defined as."""

import math

import numpy as np
import pytest
import torch

from sn_mm.functional.sparsestmax import sparsemax, sparsestmax, without_entry

LIMIT = math.sqrt(2 / 3)


def feasible(radius, step=2e-3):
    """A fine net of the simplex of three, and of the circle in it."""
    a = np.arange(0, 1 + step / 2, step)
    grid = np.stack(np.meshgrid(a, a), -1).reshape(-1, 2)
    grid = grid[grid.sum(1) <= 1 + 1e-9]
    angle = np.linspace(0, 2 * np.pi, 20000)
    e1 = np.array([1, -1, 0]) / math.sqrt(2)
    e2 = np.array([1, 1, -2]) / math.sqrt(6)
    circle = 1 / 3 + radius * (
        np.cos(angle)[:, None] * e1 + np.sin(angle)[:, None] * e2
    )
    edge = np.stack([a, 1 - a, 0 * a], 1)
    points = np.concatenate(
        [
            np.c_[grid, np.clip(1 - grid.sum(1), 0, 1)],
            circle[(circle >= 0).all(1)],
            *(np.roll(edge, k, axis=1) for k in range(3)),
        ]
    )
    far = np.linalg.norm(points - 1 / 3, axis=1) >= radius - 1e-9
    return points[far]


@pytest.mark.parametrize('radius', [0.0, 0.2, 0.4, 0.45, 0.6, 0.8])
def test_it_is_the_nearest_feasible_point(radius):
    net = feasible(radius)
    z = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    p = sparsestmax(z.double() * 0.7, radius)
    assert torch.allclose(p.sum(1), torch.ones(60).double())
    assert (p >= 0).all()
    assert ((p - 1 / 3).norm(dim=1) >= radius - 1e-9).all()
    for row, point in zip(z.double().numpy() * 0.7, p.numpy()):
        best = np.linalg.norm(net - row, axis=1).min()
        assert np.linalg.norm(point - row) <= best + 2e-3


def test_radius_zero_is_sparsemax():
    z = torch.tensor([[0.5, 0.4, -3.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    want = torch.tensor([[0.55, 0.45, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert torch.allclose(sparsestmax(z, 0.0), want)
    assert torch.equal(sparsemax(z), sparsestmax(z, 0.0))


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5])
def test_beyond_the_limit_the_largest_wins_exactly(count):
    z = torch.randn(50, count, generator=torch.Generator().manual_seed(1))
    want = torch.nn.functional.one_hot(z.argmax(1), count).float()
    for radius in (math.sqrt((count - 1) / count) + 1e-4, 1.0):
        assert torch.equal(sparsestmax(z, radius), want)


@pytest.mark.parametrize('count', [2, 3, 4])
@pytest.mark.parametrize('radius', [0.0, 0.3, 0.5, 0.65])
def test_gradient(count, radius):
    z = torch.randn(
        8, count, generator=torch.Generator().manual_seed(2)
    ).double()
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: sparsestmax(t, radius), (z,))


def test_no_gradient_where_one_is_left():
    z = torch.tensor([0.3, 0.2, 0.1], requires_grad=True)
    p = sparsestmax(z, 0.9)
    (grad,) = torch.autograd.grad((p * torch.arange(3.0)).sum(), z)
    assert grad.abs().max() == 0


@pytest.mark.parametrize(
    'z', [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
)
@pytest.mark.parametrize('radius', [0.1, 0.5, 1.0])
def test_ties_stay_finite(z, radius):
    z = torch.tensor(z, requires_grad=True)
    p = sparsestmax(z, radius)
    (grad,) = torch.autograd.grad((p * torch.arange(len(z))).sum(), z)
    assert p.isfinite().all() and grad.isfinite().all()
    assert float(p.detach().sum()) == pytest.approx(1)
    assert torch.equal(p[0], p[1])
    assert grad.abs().max() > 0  # so that training can break the tie


def test_without_entry():
    ratios = torch.tensor([[0.5, 0.2, 0.3], [1.0, 0.0, 0.0]])
    want = torch.tensor([[0, 0.4, 0.6], [0, 0.5, 0.5]])
    assert torch.allclose(without_entry(ratios, 0), want)


def test_values_that_are_no_numbers_stay_so():
    """Memory that nothing was written to, on its way into a state dict."""
    assert sparsestmax(torch.full((2, 3), math.nan), 0.2).isnan().any()
