# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of SN in Triton against autograd over the formulas."""

import collections
from types import SimpleNamespace

import pytest
import torch

from sn_mm.kernels.fused import switch_triton
from sn_mm.kernels.fused.switch_settings import Switch
from sn_mm.kernels.triton import library

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.skipif(
    library.missing() is not None
    or (DEVICE == 'cpu' and not library.is_interpreted()),
    reason='needs a GPU or the interpreter of Triton 3',
)
SUBSETS = [
    ('in', 'ln', 'bn'),
    ('bn', 'gn', 'in', 'ln'),
    ('gn', 'ln'),
    ('in',),
    ('bn',),
]
# (N, C, S, ratio groups): no power of two, one row, single positions, many
# samples to sum over
SHAPES = [
    (2, 12, 49, 3),
    (1, 1, 7, 0),
    (5, 24, 1, 2),
    (70, 6, 49, 0),
]
TIGHT = 1e-6


def make_switch(names, size, **options):
    drop = size == 1 and len(names) > 1 and 'in' in names
    switch = Switch(names, 2, True, 1.0, drop, 1e-4)
    return switch._replace(**options)


def make_numbers(n, c, size, k, sets, affine=True):
    """moments, sums, and parameters."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator, dtype=dtype).to(DEVICE)

    moments = normal(2, n, c, dtype=torch.float64)
    moments = torch.stack([3 * moments[0] + 5, moments[1].square() + 0.1])
    if size == 1:
        moments[1] = 0
    sums = normal(2, n, c, dtype=torch.float64)
    shape = (sets, k) if sets else (k,)
    # positive, as ratios themselves are
    logits = [normal(*shape).abs() + 0.1 for _ in range(2)]
    affine = [normal(c), normal(c)] if affine else [None, None]
    return moments, sums, [*logits, *affine]


def pooled(name, m, v, groups):
    """One statistic's mean and variance, for every row."""
    if name == 'in':
        return m, v
    n, c = m.shape
    shape, dim = {
        'ln': ((n, 1, c), 2),
        'gn': ((n, groups, -1), 2),
        'bn': ((n, c), 0),
    }[name]
    m, v = m.reshape(shape), v.reshape(shape)
    mean = m.mean(dim, keepdim=True)
    var = (v + (m - mean).square()).mean(dim, keepdim=True)
    return [t.expand(m.shape).reshape(n, c) for t in (mean, var)]


def exact_factors(switch, m, v, logits, weight, bias, given=None):
    """centre, scale and bias of every row, by the paper's formulas."""
    values = [
        given
        if name == 'bn' and given is not None
        else pooled(name, m, v * switch.bessel, switch.num_groups)
        for name in switch.statistics
    ]
    mixed = []
    for half in range(2):
        ratios = logits[half].reshape(-1, len(values))
        if switch.drop_instance:
            lost = torch.zeros(len(values), device=DEVICE)
            lost[switch.statistics.index('in')] = float('-inf')
            ratios = ratios + lost
        if switch.softmax:
            ratios = ratios.softmax(1)
        ratios = ratios.repeat_interleave(m.shape[1] // len(ratios), 0)
        mixed.append(sum(r * t[half] for r, t in zip(ratios.T, values)))
    scale = (mixed[1] + switch.eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = torch.zeros_like(scale) if bias is None else bias
    return mixed[0], scale, shift.expand(m.shape)


def exact(switch, moments, sums, params, size, given=None):
    """factors, coefficients and gradients of params, by autograd."""
    m, v, *params = (
        None if t is None else t.double().requires_grad_()
        for t in (*moments, *params)
    )
    if given is not None:
        given = [t.double() for t in given]
    near = moments[0].float().double()
    centre, scale, bias = exact_factors(
        switch, m, v, params[:2], *params[2:], given
    )
    s0, s1 = sums
    with torch.no_grad():
        d_centre = -scale * s0
        d_scale = s1 - (centre - near) * s0
    loss = (centre * d_centre + scale * d_scale + bias * s0).sum()
    leaves = [t for t in (m, v, *params) if t is not None]
    grads = iter(torch.autograd.grad(loss, leaves, allow_unused=True))
    dm, dv = (next(grads) for _ in range(2))
    dm, dv = (torch.zeros_like(m) if d is None else d for d in (dm, dv))
    slope = 2 * dv / size
    factors = torch.stack([near, scale, bias - scale * (centre - near)])
    shift = dm / size - slope * (m - near)
    coefficients = torch.stack([scale, slope, shift])
    rest = [None if t is None else next(grads) for t in params]
    return factors.detach(), coefficients.detach(), rest


def assert_close(got, want):
    """Beside the largest value."""
    assert got.dtype == torch.float32 and got.shape == want.shape
    off = (got - want).abs().max()
    assert off <= TIGHT * want.abs().max() + 1e-9, float(off)


def check(switch, moments, sums, params, size, given=None):
    factors, coefficients, grads = exact(
        switch, moments, sums, params, size, given
    )
    got, pools = switch_triton.forward(switch, moments, *params, given)
    for ours, theirs in zip(got, factors):
        assert_close(ours, theirs)
    got, *rest = switch_triton.backward(
        switch, moments, sums, *params, pools, given is not None, size=size
    )
    for ours, theirs in zip(got, coefficients):
        assert_close(ours, theirs)
    for ours, theirs in zip(rest, grads):
        if theirs is None:
            assert ours is None
        else:
            assert_close(ours, theirs)
    return pools


@pytest.mark.parametrize('names', SUBSETS)
@pytest.mark.parametrize('n, c, size, sets', SHAPES)
def test_equals_the_formulas(n, c, size, sets, names):
    switch = make_switch(names, size, num_groups=2 - c % 2)
    moments, sums, params = make_numbers(n, c, size, len(names), sets)
    pools = check(switch, moments, sums, params, size)
    shapes = {'ln': (n, 1), 'gn': (n, switch.num_groups), 'bn': (1, c)}
    for name, pool in zip(names, pools):
        if name == 'in':
            assert pool is None
            continue
        assert pool.shape == (2, *shapes[name]) and pool.dtype == torch.float64
        want = pooled(name, *moments, switch.num_groups)
        for half in range(2):
            rows = pool[half].repeat_interleave(c // pool.shape[2], 1)
            assert torch.allclose(rows.expand(n, c), want[half], rtol=1e-12)


def test_many_channels_to_sum_over():
    switch = make_switch(('ln', 'gn', 'bn'), 9)
    check(switch, *make_numbers(2, 1100, 9, 3, 1), 9)


@pytest.mark.parametrize(
    'options',
    [{'bessel': 49 / 48}, {'softmax': False}, {'eps': 0.0}],
    ids=str,
)
def test_options(options):
    names = ('in', 'gn', 'bn', 'ln')
    switch = make_switch(names, 49, **options)
    check(switch, *make_numbers(3, 8, 49, 4, 2), 49)


def test_without_affine():
    names = ('in', 'ln', 'bn')
    numbers = make_numbers(3, 8, 49, 3, 0, affine=False)
    check(make_switch(names, 49), *numbers, 49)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_parameters_of_other_dtypes_and_strides(dtype):
    names = ('in', 'ln', 'bn')
    moments, sums, params = make_numbers(3, 8, 49, 3, 2)
    params = [torch.stack([p, p], -1).to(dtype)[..., 0] for p in params]
    assert not params[0].is_contiguous()
    check(make_switch(names, 49), moments, sums, params, 49)


def test_given_moments_are_constants():
    names = ('in', 'bn', 'ln')
    moments, sums, params = make_numbers(3, 8, 49, 3, 0)
    given = (params[2].clone(), params[3].square() + 0.5)
    switch = make_switch(names, 49)
    pools = check(switch, moments, sums, params, 49, given)
    assert torch.equal(pools[1], torch.stack(given).double()[:, None])


def test_a_large_mean_costs_no_digits():
    names = ('in', 'ln', 'bn')
    moments, sums, params = make_numbers(3, 8, 49, 3, 0)
    moments[0] += 1e5
    check(make_switch(names, 49), moments, sums, params, 49)


def test_exchanged_batch_moments():
    """Two halves of a batch, each with the other's share."""
    names = ('in', 'ln', 'bn')
    switch = make_switch(names, 9)
    moments, sums, params = make_numbers(4, 6, 9, 3, 0)
    factors, coefficients, _ = exact(switch, moments, sums, params, 9)
    halves = [
        (moments[:, i : i + 2].contiguous(), sums[:, i : i + 2].contiguous())
        for i in (0, 2)
    ]
    local = []
    for m, _ in halves:
        switch_triton.forward(
            switch, m, *params, exchange=lambda t: local.append(t) or t
        )
    (mean1, var1), (mean2, var2) = local
    mean = (mean1 + mean2) / 2
    var = (var1 + var2 + (mean1 - mean) ** 2 + (mean2 - mean) ** 2) / 2
    count = torch.full_like(mean, 36.0)
    whole = torch.stack([mean, var, count])
    pools, sent = [], []
    for i, (m, _) in enumerate(halves):
        got, pool = switch_triton.forward(
            switch, m, *params, exchange=lambda t: whole
        )
        pools.append(pool)
        assert pool[2].shape == (3, 1, 6)
        for ours, theirs in zip(got, factors[:, 2 * i : 2 * i + 2]):
            assert_close(ours, theirs)
    for pool, half in zip(pools, halves):
        switch_triton.backward(
            switch,
            *half,
            *params,
            pool,
            size=9,
            exchange=lambda t: sent.append(t) or t,
        )
    share = (sent[0] + sent[1]) / 4
    for i, half in enumerate(halves):
        got, *_ = switch_triton.backward(
            switch,
            *half,
            *params,
            pools[i],
            size=9,
            exchange=lambda t: share,
        )
        for ours, theirs in zip(got, coefficients[:, 2 * i : 2 * i + 2]):
            off = (ours - theirs).abs().max()
            assert off <= TIGHT * theirs.abs().max() + 1e-6


def test_results_are_nobody_elses_memory():
    names = ('in', 'ln', 'bn')
    moments, sums, params = make_numbers(2, 4, 9, 3, 0)
    switch = make_switch(names, 9)
    factors, pools = switch_triton.forward(switch, moments, *params)
    results = switch_triton.backward(
        switch, moments, sums, *params, pools, size=9
    )
    assert all(t._base is None for t in (factors, *results))


def test_the_trial_passes():
    assert switch_triton._difference(torch.device(DEVICE)) is None
    assert switch_triton.why_not(torch.device(DEVICE)) is None


@pytest.mark.parametrize(
    'kernel', ['pool', 'factors', 'rowgrads', 'gradpool', 'dfactors']
)
def test_the_trial_sees_a_kernel_that_does_nothing(monkeypatch, kernel):
    kernels = switch_triton._kernels()
    names = ('pool', 'factors', 'rowgrads', 'gradpool', 'dfactors')
    fake = SimpleNamespace(
        **{f'{n}_kernel': getattr(kernels, f'{n}_kernel') for n in names}
    )
    nothing = collections.defaultdict(lambda: lambda *args, **kwargs: None)
    setattr(fake, f'{kernel}_kernel', nothing)
    monkeypatch.setattr(switch_triton, '_kernels', lambda: fake)
    new_empty = torch.Tensor.new_empty

    def emptied(t, *args, **kwargs):
        return new_empty(t, *args, **kwargs).fill_(float('nan'))

    monkeypatch.setattr(torch.Tensor, 'new_empty', emptied)
    assert 'are wrong' in switch_triton._difference(torch.device(DEVICE))


# -- running statistics ---------------------------------------------------
def running(c):
    tensors = torch.zeros(c), torch.ones(c), torch.tensor(7)
    return [t.to(DEVICE) for t in tensors]


def batch_moments(rows, c):
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(rows, 1, c, dtype=torch.float64, generator=generator)
    return t.to(DEVICE) + 1


@pytest.mark.parametrize('rows', [2, 3])
@pytest.mark.parametrize('c', [1, 12, 2500])
def test_running_statistics_move_towards_the_batchs(rows, c):
    mean, var, count = running(c)
    pooled = batch_moments(rows, c)
    assert switch_triton.move_running(mean, var, count, pooled, 0.1)
    torch.testing.assert_close(mean.double(), 0.1 * pooled[0, 0])
    torch.testing.assert_close(var.double(), 0.9 + 0.1 * pooled[1, 0])
    assert count == 8


@pytest.mark.parametrize('place', [(0, 3), (1, 1500)])
@pytest.mark.parametrize(
    'value', [float('inf'), float('-inf'), float('nan'), 1e300]
)
def test_a_batch_that_is_not_finite_moves_nothing(place, value):
    mean, var, count = running(1501)
    pooled = batch_moments(2, 1501)
    pooled[place[0], 0, place[1]] = value
    assert switch_triton.move_running(mean, var, count, pooled, 0.1)
    assert mean.eq(0).all() and var.eq(1).all() and count == 7


def test_a_batch_of_no_positions_moves_nothing():
    mean, var, count = running(12)
    pooled = batch_moments(3, 12)
    pooled[2] = 0
    assert switch_triton.move_running(mean, var, count, pooled, 0.1)
    assert mean.eq(0).all() and var.eq(1).all() and count == 7


def test_other_running_statistics_are_left_to_pytorch():
    pooled = batch_moments(2, 12)
    mean, var, count = running(12)
    for others in (
        (running(11)[0], var, count),
        (mean, running(13)[1], count),
        (mean, var, count.float()),
        (mean, var, count.expand(2)),
        (mean.half(), var, count),
        (running(24)[0][::2], var, count),
    ):
        assert not switch_triton.move_running(*others, pooled, 0.1)
    assert not switch_triton.move_running(
        mean, var, count, pooled.float(), 0.1
    )
    assert not switch_triton.move_running(mean, var, count, pooled, None)
