# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN in one call of C each way, against float64 autograd."""

from __future__ import annotations

import pytest
import torch

from sn_mm.functional import switchable_norm_reference
from sn_mm.kernels.fused import switch_driven
from sn_mm.kernels.fused.switch_settings import Switch
from sn_mm.kernels.native.sweeps import Rows
from tests.utils import relative_error

pytestmark = pytest.mark.skipif(
    switch_driven.why_not() is not None, reason='no C compiler'
)
ALL = ('in', 'ln', 'bn', 'gn')
TOLERANCE = 1e-5
CHANNELS = 6


def make(shape, statistics=ALL, sets=1):
    gen = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(size, generator=gen)

    k = len(statistics)
    logits = (k,) if sets == 1 else (sets, k)
    x = 2 * normal(*shape) + normal(*shape[:2], 1, 1)
    params = [normal(*logits), normal(*logits), normal(CHANNELS)]
    switch = Switch(statistics, 3, True, 1.0, False, 1e-5)
    return switch, x, normal(*shape), [*params, normal(CHANNELS)]


def wanted(switch, x, dy, params, given=None, relu=False):
    """y and the gradients of x and of the parameters."""
    leaves = [t.double().requires_grad_() for t in (x, *params)]
    running = () if given is None else [t.double() for t in given]
    y = switchable_norm_reference(
        *leaves,
        *running,
        statistics=switch.statistics,
        num_groups=switch.num_groups,
        eps=switch.eps,
    )
    y = y.relu() if relu else y
    return [y, *torch.autograd.grad(y, leaves, dy.double())]


def got(switch, x, dy, params, given=None, relu=False, keep=True):
    rows = Rows.from_tensor(x)
    y, moments, batch = switch_driven.normalize(
        switch, rows, params, given, keep, relu
    )
    assert (moments is None) is not keep or given is not None
    rows, constant = Rows.from_tensor(x, dy), None if given is None else batch
    d_x, d_params = switch_driven.differentiate(
        switch, rows, moments, params, constant, True, relu
    )
    return [y, d_x, *d_params], batch


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('sets', [1, 2])
def test_outputs_and_gradients(keep, last, sets):
    switch, x, dy, params = make((3, CHANNELS, 5, 4), sets=sets)
    want = wanted(switch, x, dy, params)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    found, batch = got(switch, x, dy, params, keep=keep)
    for a, b in zip(found, want):
        assert relative_error(a, b) < TOLERANCE
    flat = x.double().transpose(0, 1).flatten(1)
    assert batch.shape == (2, 1, CHANNELS) and batch.dtype == torch.float64
    assert relative_error(batch[0, 0], flat.mean(1)) < 1e-6
    assert relative_error(batch[1, 0], flat.var(1, unbiased=False)) < 1e-6


@pytest.mark.parametrize('statistics', [('in',), ('bn', 'ln')])
@pytest.mark.parametrize('relu', [False, True])
def test_given_moments_and_relu(statistics, relu):
    switch, x, dy, params = make((4, CHANNELS, 7, 3), statistics)
    given = None
    if 'bn' in statistics:
        given = tuple(torch.rand(2, CHANNELS) + 0.5)
    found, batch = got(switch, x, dy, params, given, relu)
    for a, b in zip(found, wanted(switch, x, dy, params, given, relu)):
        assert relative_error(a, b) < TOLERANCE
    if given is not None:
        assert batch[:, 0].equal(torch.stack(given).double())


def test_given_moments_that_float32_does_not_hold():
    switch, x, dy, params = make((4, CHANNELS, 7, 3), ('bn',))
    mean = 1000 + torch.rand(CHANNELS).double()
    x, given = x + 1000, (mean, torch.rand(CHANNELS).double() + 0.5)
    assert not mean.float().double().equal(mean)
    found, batch = got(switch, x, dy, params, given)
    for a, b in zip(found, wanted(switch, x, dy, params, given)):
        assert relative_error(a, b) < 1e-6
    assert batch[:, 0].equal(torch.stack(given))


@pytest.mark.parametrize('statistics', [ALL, ('gn', 'in'), ('ln', 'bn')])
@pytest.mark.parametrize('samples', [1, 3, 4, 7, 11, 37])
def test_any_number_of_samples(statistics, samples):
    switch, x, dy, params = make((samples, CHANNELS, 3, 5), statistics)
    found, _ = got(switch, x, dy, params)
    for a, b in zip(found, wanted(switch, x, dy, params)):
        assert relative_error(a, b) < TOLERANCE


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('shape', [(6001, 7, 7), (5, 160, 160), (181, 25, 60)])
def test_the_number_of_threads_changes_no_bit(shape, last, relu, threads):
    samples, *positions = shape
    switch, x, dy, params = make((samples, CHANNELS, *positions))
    given = tuple(torch.rand(2, CHANNELS) + 0.5)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for count in (1, 2, 3):
        threads(count)
        for constant in (None, given):
            found, batch = got(switch, x, dy, params, constant, relu)
            results.append([*found, batch])
    for first, other in zip(results[:2] * 2, results[2:]):
        assert all(a.equal(b) for a, b in zip(first, other))
    want = wanted(switch, x[:1], dy[:1], params, given, relu)[0]
    assert relative_error(results[1][0][:1], want) < TOLERANCE


def test_parameters_of_other_shapes_are_refused():
    switch, x, _, params = make((2, CHANNELS, 3, 3))
    params[2] = params[2][:-1]
    with pytest.raises((ValueError, RuntimeError), match='weight'):
        switch_driven.normalize(
            switch, Rows.from_tensor(x), params, None, False, False
        )
