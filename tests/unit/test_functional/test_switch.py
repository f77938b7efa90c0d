# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import itertools

import pytest
import torch
from torch import nn

from sn_mm import SN2d
from sn_mm.functional import (
    STATISTICS,
    SwitchRule,
    normalize_rows,
    switchable_norm_reference,
)
from sn_mm.functional.traced import normalize_rows_traced
from tests.utils import (
    assert_close,
    randomize,
    relative_error,
    run,
    run_reference,
    usable_backends,
)

SUBSETS = [
    s for k in range(1, 5) for s in itertools.combinations(STATISTICS, k)
]
# (shape, G): one position, one row of positions, odd extents that no vector
# width divides, RoI-like, more channels than positions, one sample
SHAPES = [
    ((2, 12, 1, 1), 1),
    ((3, 4, 1, 7), 2),
    ((2, 8, 13, 9), 4),
    ((17, 4, 7, 7), 1),
    ((2, 36, 3, 2), 3),
    ((1, 8, 5, 6), 1),
]


def layer_for(shape, groups, **kwargs):
    return randomize(
        SN2d(shape[1], num_groups=2, ratio_groups=groups, eps=1e-4, **kwargs)
    )


def batch_for(shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    offsets = torch.randn(*shape[:2], 1, 1, generator=gen)
    x = 2 * torch.randn(shape, generator=gen) + 3 * offsets
    return x, torch.randn(shape, generator=gen)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('unbiased', [False, True])
@pytest.mark.parametrize('statistics', SUBSETS)
def test_against_float64_autograd(statistics, unbiased, training):
    for i, (shape, groups) in enumerate(SHAPES):
        if shape[2:] == (1, 1) and statistics == ('in',):
            continue  # all zero: test_switchable.test_instance_norm_of_...
        layer = layer_for(
            shape, groups, statistics=statistics, unbiased=unbiased
        )
        layer.train(training)
        x, dy = batch_for(shape, i)
        want = run_reference(layer, x, dy, 'bn' in statistics and not training)
        got = run(layer, x, dy)
        assert_close(got, want, 2e-4)


@pytest.mark.parametrize('training', [True, False])
def test_double_precision_is_exact(training):
    shape = (3, 6, 4, 5)
    layer = layer_for(shape, 2, statistics=STATISTICS).double()
    layer.train(training)
    x, dy = (t.double() for t in batch_for(shape))
    want = run_reference(layer, x, dy, not training)
    assert_close(run(layer, x, dy), want, 1e-10)


@pytest.mark.parametrize('unbiased', [False, True])
def test_gradcheck(unbiased):
    x = torch.randn(3, 4, 2, 3, dtype=torch.double, requires_grad=True)
    params = [
        torch.randn(n, dtype=torch.double, requires_grad=True) for n in (4, 4)
    ]
    ratios = [
        torch.randn(2, 4, dtype=torch.double, requires_grad=True)
        for _ in range(2)
    ]
    rule = SwitchRule(STATISTICS, 1e-3, unbiased=unbiased, num_groups=2)

    def function(x, weight, bias, *ratios):
        return normalize_rows(x, rule, *ratios, weight, bias)[0]

    assert torch.autograd.gradcheck(function, (x, *params, *ratios))
    assert torch.autograd.gradgradcheck(function, (x, *params, *ratios))


@pytest.mark.parametrize(
    'statistics', [('in',), ('ln',), ('bn',), ('gn',), ('in', 'ln', 'bn')]
)
@pytest.mark.parametrize('seed', range(3))
def test_large_mean_is_no_worse_than_batch_norm(statistics, seed):
    """mean / std = 1e4, on the input that batch norm gets."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 8, 33, 29, generator=gen) + 1e4
    dy = torch.randn(x.shape, generator=gen)

    def errors(layer):
        got = run(layer, x, dy)
        want = run(layer.double(), x.double(), dy.double())
        return {
            k: relative_error(got[k], want[k]) for k in ('y', 'x', 'weight')
        }

    theirs = errors(nn.BatchNorm2d(8))
    ours = errors(SN2d(8, statistics=statistics, num_groups=4))
    for name, error in ours.items():
        assert error <= theirs[name], (name, error, theirs[name])


@pytest.mark.parametrize(
    'statistics,reference',
    [
        (('in',), nn.InstanceNorm2d(8, affine=True)),
        (('ln',), nn.GroupNorm(1, 8)),
        (('gn',), nn.GroupNorm(4, 8)),
        (('bn',), nn.BatchNorm2d(8)),
    ],
)
def test_single_statistic_is_the_native_norm(statistics, reference):
    layer = randomize(SN2d(8, statistics=statistics, num_groups=4))
    with torch.no_grad():
        reference.weight.copy_(layer.weight)
        reference.bias.copy_(layer.bias)
    x, dy = batch_for((3, 8, 6, 5))
    got, want = run(layer, x, dy), run(reference, x, dy)
    for name in want:
        assert relative_error(got[name], want[name]) < 1e-5, name


@pytest.mark.parametrize('statistic', ['in', 'ln', 'bn', 'gn'])
def test_one_hot_ratios_are_the_single_statistic(statistic):
    whole = SN2d(8, statistics=STATISTICS, num_groups=4)
    with torch.no_grad():
        for logits in (whole.mean_weight, whole.var_weight):
            logits[STATISTICS.index(statistic)] = 100.0
    single = SN2d(8, statistics=(statistic,), num_groups=4)
    x, _ = batch_for((3, 8, 6, 5))
    assert relative_error(whole(x), single(x)) < 1e-6


class LastAlone(SwitchRule):
    """A subclass that means something else: the last statistic alone."""

    def ratios(self, weight, size, m):
        return (*[m.new_zeros(())] * (weight.shape[-1] - 1), m.new_ones(()))


class Renamed(SwitchRule):
    """The same, which the fused numbers do not know."""


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('backend', usable_backends())
def test_a_subclass_is_obeyed(backend, dtype):
    if backend != 'aten' and dtype is torch.float64:
        return
    x, _ = batch_for((3, 8, 6, 5))
    params = torch.randn(2, 3)
    y, _ = normalize_rows(
        x.to(dtype), LastAlone(('in', 'ln', 'bn')), *params, backend=backend
    )
    want = nn.functional.batch_norm(x, None, None, training=True)
    assert relative_error(y, want) < 1e-5


@pytest.mark.parametrize(
    'backend',
    # Triton's numbers have tests of their own, and the interpreter is slow
    [name for name in usable_backends() if name != 'triton'],
)
@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('shape', [(3, 8, 6, 5), (2, 8, 1, 1), (9, 8, 7, 7)])
@pytest.mark.parametrize('statistics', SUBSETS)
def test_fused_numbers_equal_the_rule(statistics, shape, groups, backend):
    if shape[2:] == (1, 1) and statistics == ('in',):
        return  # all zero
    x, dy = batch_for(shape)
    ratios = (groups, len(statistics)) if groups > 1 else (len(statistics),)
    params = [torch.randn(ratios) for _ in range(2)]
    params += [torch.randn(8) for _ in range(2)]
    for unbiased in (False, True):
        results = []
        for cls in (SwitchRule, Renamed):
            rule = cls(statistics, 1e-2, unbiased=unbiased, num_groups=4)
            inputs = [t.clone().requires_grad_() for t in (x, *params)]
            result = normalize_rows(
                inputs[0], rule, *inputs[1:], backend=backend
            )
            y, *extras = result if isinstance(result, tuple) else (result,)
            results.append([y, *torch.autograd.grad(y, inputs, dy), *extras])
        for fused, plain in zip(*results):
            assert fused.shape == plain.shape
            assert relative_error(fused, plain) < 1e-6


@pytest.mark.parametrize('shape', [(3, 8, 6, 5), (2, 8, 1, 1)])
def test_traced_equals_the_autograd_function(shape):
    x, dy = batch_for(shape)
    params = [torch.randn(4, requires_grad=True) for _ in range(2)]
    params += [torch.randn(8, requires_grad=True) for _ in range(2)]
    x.requires_grad_()
    rule = SwitchRule(STATISTICS, num_groups=4)
    results = []
    for y, batch in (
        normalize_rows(x, rule, *params),
        normalize_rows_traced(x, rule, params),
    ):
        grads = torch.autograd.grad(y, (x, *params), dy)
        results.append((y, *grads, batch))
    for ours, plain in zip(*results):
        assert relative_error(ours, plain) < 2e-5


def test_reference_by_hand():
    """Two samples, two channels, two positions, worked out on paper."""
    x = torch.tensor(
        [[[[1.0, 3.0]], [[5.0, 5.0]]], [[[0.0, 0.0]], [[2.0, 6.0]]]]
    )
    logits = torch.zeros(3)
    # means: IN 2 5 / 0 4, LN 3.5 / 2, BN 1 4.5; variances: IN 1 0 / 0 4,
    # LN 2.75 / 6, BN 1.5 2.25
    mu = torch.tensor([[6.5, 13.0], [3.0, 10.5]]) / 3
    var = torch.tensor([[5.25, 5.0], [7.5, 12.25]]) / 3
    want = (x - mu[..., None, None]) / var.sqrt()[..., None, None]
    got = switchable_norm_reference(x.double(), logits, logits, eps=0.0)
    torch.testing.assert_close(got, want.double(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('shape', [(8, 16, 7, 7), (2, 16, 40, 40)])
def test_kept_for_backward_is_the_input(shape):
    """Short rows keep no moments; long ones keep less than 2% more."""
    layer, x = SN2d(16), torch.randn(shape, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        layer(x)
    kept = sum(t.numel() * t.element_size() for t in saved)
    small = 1000 + 16 * 16 * layer.weight.element_size()
    assert kept <= 1.02 * x.numel() * x.element_size() + small


def test_in_place_relu_after_it():
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    nn.functional.relu(SN2d(4)(x), inplace=True).sum().backward()
    assert torch.isfinite(x.grad).all()
