# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The engine in C: both memory formats, any number of threads."""

import pytest
import torch

from sn_mm import SN2d, SN3d
from sn_mm.functional.engines import native
from sn_mm.functional.engines.library import library
from tests.utils import (
    assert_close,
    randomize,
    relative_error,
    run,
    run_reference,
)

pytestmark = pytest.mark.skipif(library() is None, reason='needs a C compiler')
# RoI-like rows with and without a remainder of four, more channels than a
# chunk has, more positions than are summed in float32, too few for a register
SHAPES = [
    (5, 12, 7, 7),
    (3, 7, 5, 5),
    (2, 140, 9, 3),
    (2, 6, 61, 47),
    (4, 33, 1, 2),
    (1, 5, 13, 11),
]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def layer_for(shape, cls=SN2d, **kwargs):
    return randomize(cls(shape[1], eps=1e-4, **kwargs))


def batch_for(shape, last, scale=3.0):
    gen = torch.Generator().manual_seed(0)
    ones = (1,) * (len(shape) - 2)
    offsets = torch.randn(*shape[:2], *ones, generator=gen)
    x = 2 * torch.randn(shape, generator=gen) + scale * offsets
    dy = torch.randn(shape, generator=gen)
    if not last:
        return x, dy
    form = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.to(memory_format=form), dy.to(memory_format=form)


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('unbiased', [True, False])
@pytest.mark.parametrize('shape', SHAPES)
def test_equals_the_oracle(shape, unbiased, training, last):
    layer = layer_for(shape, unbiased=unbiased).train(training)
    x, dy = batch_for(shape, last)
    assert native.takes(x, layer._mixing(layer._batch_statistic(), ('in',)))
    got = run(layer, x, dy)
    want = run_reference(layer, x, dy, use_running=not training)
    assert_close(got, want, 2e-4)
    assert got['y'].stride() == x.stride()


@pytest.mark.parametrize('last', [False, True])
def test_volumes(last):
    shape = (2, 6, 5, 4, 7)
    layer = layer_for(shape, SN3d)
    x, dy = batch_for(shape, last)
    want = run_reference(layer, x, dy, use_running=False)
    assert_close(run(layer, x, dy), want, 2e-4)


@pytest.mark.parametrize('shape', [(2, 6, 61, 47), (6, 12, 7, 7)])
def test_a_large_mean_costs_no_more_digits_in_either_format(shape):
    """x - 1e4 has lost those digits before: compare with BatchNorm."""
    layer = layer_for(shape, statistics=('bn',))
    batch_norm = torch.nn.BatchNorm2d(shape[1], eps=1e-4)
    batch_norm.load_state_dict(layer.state_dict(), strict=False)
    for last in (False, True):
        x, dy = batch_for(shape, last, scale=0.0)
        x = x / 2 + 1e4
        want = run_reference(layer, x, dy, use_running=False)['y']
        error = relative_error(run(layer, x, dy)['y'], want)
        assert error <= 1.01 * relative_error(batch_norm(x), want)


@pytest.mark.parametrize('channels,groups', [(1, 1), (6, 1), (6, 3), (6, 6)])
def test_pools_of_one_channel_and_of_all(channels, groups):
    kwargs = dict(statistics=('gn', 'ln', 'in', 'bn'), num_groups=groups)
    layer = layer_for((4, channels), **kwargs)
    x, dy = batch_for((4, channels, 5, 7), last=False)
    want = run_reference(layer, x, dy, use_running=False)
    assert_close(run(layer, x, dy), want, 2e-4)


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('shape', [(3, 140, 40, 31), (96, 33, 7, 7)])
def test_results_do_not_depend_on_the_number_of_threads(shape, last):
    layer, (x, dy) = layer_for(shape), batch_for(shape, last)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(run(layer, x, dy))
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


def test_a_gradient_of_another_layout_is_rearranged():
    layer = layer_for((2, 6, 9, 5))
    x, dy = batch_for((2, 6, 9, 5), last=True)
    want = run_reference(layer, x, dy, use_running=False)
    assert_close(run(layer, x, dy.contiguous()), want, 2e-4)
    other = dy.transpose(2, 3).contiguous().transpose(2, 3)
    assert_close(run(layer, x.contiguous(), other), want, 2e-4)
