# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The fused numbers of SN in C against plain PyTorch in float64."""

import itertools

import pytest
import torch

from sn_mm.kernels.fused import switch_native
from sn_mm.kernels.fused.switch_settings import Switch
from tests.utils import relative_error

pytestmark = pytest.mark.skipif(
    switch_native.why_not() is not None, reason='no C compiler'
)
SUBSETS = [
    subset
    for count in range(1, 5)
    for subset in itertools.combinations(('in', 'ln', 'bn', 'gn'), count)
]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_switch(statistics=('in', 'ln', 'bn'), size=49, **kwargs):
    values = dict(
        num_groups=3,
        softmax=True,
        bessel=1.0,
        drop_instance=size == 1 and len(statistics) > 1,
        eps=1e-4,
    )
    return Switch(tuple(statistics), **{**values, **kwargs})


class Numbers:
    """Moments, sums and parameters of a layer."""

    def __init__(self, n, c, switch, groups=1, affine=True, size=49):
        gen = torch.Generator().manual_seed(n + 10 * c)

        def normal(*shape, dtype=torch.float32):
            return torch.randn(shape, generator=gen, dtype=dtype)

        self.switch, self.size = switch, size
        mean = 3 * normal(n, c, dtype=torch.float64)
        var = torch.rand(n, c, generator=gen, dtype=torch.float64) * 3
        self.moments = torch.stack([mean, var * (size > 1)])
        self.sums = normal(2, n, c, dtype=torch.float64)
        if size == 1:  # sum of dy * (x - near), x being near its mean
            near = mean.float().double()
            self.sums[1] = self.sums[0] * (mean - near)
        k = len(switch.statistics)
        shape = (k,) if groups == 1 else (groups, k)
        self.params = [
            normal(*shape),
            normal(*shape),
            normal(c) if affine else None,
            normal(c) if affine else None,
        ]
        if not switch.softmax:
            self.params[:2] = [p.softmax(-1) for p in self.params[:2]]

    def forward(self, **kwargs):
        return switch_native.forward(
            self.switch, self.moments, *self.params, **kwargs
        )

    def backward(self, pools, **kwargs):
        return switch_native.backward(
            self.switch,
            self.moments,
            self.sums,
            *self.params,
            pools,
            size=self.size,
            **kwargs,
        )

    def expected(self, given=None, pooled_batch=None):
        """Factors, pools, coefficients and gradients of the parameters.

        The sums are those of some dy and x, so that the loss is linear in
        scale and shift: sum(scale * s1 + shift * s0).
        """
        m, v = self.moments.clone().requires_grad_().unbind(0)
        params = [
            None if p is None else p.double().requires_grad_()
            for p in self.params
        ]
        near = m.detach().float().double()
        centre, scale, bias, pools = plain(
            self.switch, m, v, params, given, pooled_batch
        )
        shift = bias - scale * (centre - near)
        s0, s1 = self.sums
        inputs = [t for t in (m, v, *params) if t is not None]
        grads = torch.autograd.grad(
            (scale * s1 + shift * s0).sum(), inputs, allow_unused=True
        )
        grads = [
            torch.zeros_like(t) if g is None else g
            for t, g in zip(inputs, grads)
        ]
        d_m, d_v, *d_params = grads
        # near stands for a constant in x - near; the mean has a gradient
        # through what x is normalized with alone
        slope = 2 * d_v / self.size
        rest = d_m / self.size - slope * (m - near)
        return (
            torch.stack([near, scale, shift]),
            pools,
            torch.stack([scale, slope, rest]),
            d_params,
        )


def plain(switch, m, v, params, given=None, pooled_batch=None):
    """The rule: centre, scale and bias of the rows, and the pools."""
    mean_weight, var_weight, weight, bias = params
    n, c = m.shape
    v = v * switch.bessel

    def pool(m, v, dim):
        mean = m.mean(dim, keepdim=True)
        var = (v + (m - mean).square()).mean(dim, keepdim=True)
        return mean, var

    def ratios(logits):
        if switch.drop_instance:
            dropped = torch.tensor([s == 'in' for s in switch.statistics])
            logits = logits.masked_fill(dropped, float('-inf'))
        if switch.softmax:
            logits = logits.softmax(-1)
        if logits.dim() == 1:
            return logits.unbind(-1)
        return logits.repeat_interleave(c // len(logits), 0).unbind(-1)

    mixed, pools = [0, 0], []
    for statistic, *shares in zip(
        switch.statistics, ratios(mean_weight), ratios(var_weight)
    ):
        if statistic == 'in':
            values = m, v
            pools.append(None)
        elif statistic == 'gn':
            groups = switch.num_groups
            split = [t.view(n, groups, c // groups) for t in (m, v)]
            values = [t.squeeze(2) for t in pool(*split, 2)]
            pools.append(torch.stack(values))
            values = [t.repeat_interleave(c // groups, 1) for t in values]
        elif statistic == 'ln':
            values = pool(m, v, 1)
            pools.append(torch.stack(values))
        else:
            if given is not None:
                values = [t.double()[None] for t in given]
            elif pooled_batch is not None:
                values = pooled_batch(m, v)
            else:
                values = pool(m, v, 0)
            pools.append(torch.stack(list(values)))
        for i in range(2):
            mixed[i] = mixed[i] + shares[i] * values[i]
    scale = (mixed[1] + switch.eps).rsqrt().expand(n, c)
    if weight is not None:
        scale = scale * weight
    bias = m.new_zeros(c) if bias is None else bias
    return mixed[0], scale, bias, pools


def check(numbers, given=None, exchange=None, pooled_batch=None):
    factors, pools = numbers.forward(
        given=given, exchange=exchange and exchange[0]
    )
    coefficients, *d_params = numbers.backward(
        pools, given=given is not None, exchange=exchange and exchange[1]
    )
    want = numbers.expected(given, pooled_batch)
    assert relative_error(factors, want[0]) < 1e-6
    for statistic, got, pool in zip(numbers.switch.statistics, pools, want[1]):
        assert (got is None) == (statistic != 'bn')
        if got is not None:
            assert relative_error(got[:2], pool) < 1e-12
    for got, part in zip(coefficients, want[2]):
        assert relative_error(got, part) < 1e-6
    for got, p in zip(d_params, numbers.params):
        assert (got is None) == (p is None)
    d_params = [d for d in d_params if d is not None]
    for got, part in zip(d_params, want[3]):
        assert got.shape == part.shape and got.dtype is torch.float32
        assert relative_error(got, part) < 1e-6


@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('statistics', SUBSETS)
def test_equal_the_rule(statistics, groups, affine):
    switch = make_switch(statistics)
    check(Numbers(5, 12, switch, groups, affine))


@pytest.mark.parametrize('size', [1, 2, 49])
@pytest.mark.parametrize('n,c', [(1, 1), (1, 6), (4, 1), (1, 130), (3, 200)])
def test_few_and_many_samples_and_channels(n, c, size):
    for statistics in (('in', 'ln', 'bn'), ('gn', 'in'), ('in',)):
        groups = 1 if c == 1 or c % 2 else 2
        switch = make_switch(statistics, size, num_groups=groups)
        check(Numbers(n, c, switch, size=size))


@pytest.mark.parametrize(
    'ratio_groups,num_groups', [(4, 6), (6, 4), (12, 1), (1, 12), (3, 12)]
)
def test_groups_of_ratios_and_of_gn_that_cross(ratio_groups, num_groups):
    switch = make_switch(('gn', 'bn', 'ln', 'in'), num_groups=num_groups)
    check(Numbers(3, 12, switch, ratio_groups))


def test_groups_that_do_not_end_where_a_chunk_does():
    switch = make_switch(('gn', 'bn', 'ln', 'in'), num_groups=3)
    check(Numbers(3, 150, switch, 2))


@pytest.mark.parametrize('statistics', [('in', 'ln', 'bn'), ('in', 'gn')])
def test_ratios_as_they_are_and_bessels_correction(statistics):
    check(Numbers(5, 12, make_switch(statistics, softmax=False)))
    check(Numbers(5, 12, make_switch(statistics, bessel=49 / 48)))


def test_given_batch_statistics():
    given = torch.randn(12), torch.rand(12) + 0.5
    check(Numbers(5, 12, make_switch()), given)
    check(Numbers(5, 12, make_switch(('bn',))), given)
    check(Numbers(5, 12, make_switch(), 3), tuple(t.double() for t in given))


def test_batch_statistics_of_several_processes():
    """As if another process held rows of its own, whose gradient is known."""
    numbers = Numbers(5, 12, make_switch())
    other = Numbers(3, 12, make_switch()).moments
    share = 5 / 8
    other_mean = other[0].mean(0, keepdim=True)
    other_var = (other[1] + (other[0] - other_mean).square()).mean(
        0, keepdim=True
    )

    def merge(mean, var):
        total = share * mean + (1 - share) * other_mean
        spread = share * (var + (mean - total).square())
        spread = spread + (1 - share) * (
            other_var + (other_mean - total).square()
        )
        return total, spread

    def pooled_batch(m, v):
        mean = m.mean(0, keepdim=True)
        var = (v + (m - mean).square()).mean(0, keepdim=True)
        return merge(mean, var)

    def gather(pooled):
        assert pooled.shape == (2, 1, 12)
        mean, var = merge(*pooled)
        count = torch.full_like(mean, 8 * 49)
        return torch.stack([mean, var, count])

    def reduce(sums):
        assert sums.shape == (2, 1, 12)
        return sums / 8  # 49 positions a row, of 8 * 49

    check(numbers, None, (gather, reduce), pooled_batch)


def test_a_large_mean_costs_no_digits():
    numbers = Numbers(5, 12, make_switch(('in', 'ln', 'bn', 'gn')))
    numbers.moments[0] += 1e4
    check(numbers)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_parameters_of_other_dtypes(dtype):
    numbers = Numbers(5, 12, make_switch())
    numbers.params = [p.to(dtype) for p in numbers.params]
    factors, _ = numbers.forward()
    assert relative_error(factors, numbers.expected()[0]) < 1e-6


def test_the_number_of_threads_changes_no_bit():
    switch = make_switch(('in', 'ln', 'bn', 'gn'), num_groups=10)
    numbers = Numbers(150, 70, switch, 7)
    runs = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        factors, pools = numbers.forward()
        runs.append([factors, pools[2], *numbers.backward(pools)])
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))


def test_non_finite_weights_give_non_finite_factors_as_in_pytorch():
    numbers = Numbers(5, 12, make_switch())
    numbers.params[0][1] = float('nan')
    factors, _ = numbers.forward()
    assert factors[2].isnan().all() and torch.isfinite(factors[:2]).all()


# -- what C cannot read ---------------------------------------------------
@pytest.mark.parametrize(
    'place,shape,message',
    [
        (0, (2,), 'mean_weight has shape'),
        (0, (5, 3), 'mean_weight has shape'),
        (1, (2, 3), 'var_weight has shape'),
        (2, (11,), 'weight has shape'),
        (3, (13,), 'bias has shape'),
    ],
)
def test_parameters_of_another_length_are_refused(place, shape, message):
    numbers = Numbers(5, 12, make_switch())
    numbers.params[place] = torch.ones(shape)
    with pytest.raises(ValueError, match=message):
        numbers.forward()
    with pytest.raises(ValueError, match=message):
        numbers.backward([None, *(torch.zeros(2, 5, 1).double(),) * 2])


def test_given_statistics_of_another_length_are_refused():
    numbers = Numbers(5, 12, make_switch())
    for given in (
        (torch.zeros(11), torch.ones(12)),
        (torch.zeros(12), torch.ones(13)),
        (torch.zeros(1, 12), torch.ones(12)),
    ):
        with pytest.raises(ValueError, match='the given .* has shape'):
            numbers.forward(given=given)


def test_groups_that_do_not_divide_the_channels_are_refused():
    for groups in (5, 0, 24):
        switch = make_switch(('in', 'gn'), num_groups=groups)
        with pytest.raises(ValueError, match=f'num_groups={groups} does not'):
            Numbers(5, 12, switch).forward()


@pytest.mark.parametrize('place', range(4))
def test_parameters_elsewhere_are_refused(place):
    numbers = Numbers(5, 12, make_switch())
    numbers.params[place] = numbers.params[place].to('meta')
    with pytest.raises(TypeError, match='weight .* on meta|bias .* on meta'):
        numbers.forward()


def test_parameters_that_only_stand_for_values():
    numbers = Numbers(5, 12, make_switch())
    numbers.params[2] = torch._neg_view(numbers.params[2])
    numbers.params[3] = torch._efficientzerotensor(12)
    factors, _ = numbers.forward()
    numbers.params = [p.clone() for p in numbers.params]
    assert torch.equal(factors, numbers.forward()[0])


def test_pools_of_another_shape_are_refused():
    numbers = Numbers(5, 12, make_switch())
    pools = numbers.forward()[1]
    pools[2] = pools[2][..., :11]
    with pytest.raises(ValueError, match="pooled 'bn' has shape"):
        numbers.backward(pools)
    with pytest.raises(ValueError, match='pooled'):
        numbers.forward(exchange=lambda t: t[..., :11])


# -- running statistics ---------------------------------------------------
def running(c=12):
    return torch.zeros(c), torch.ones(c), torch.tensor(7)


@pytest.mark.parametrize('rows', [2, 3])
def test_running_statistics_move_towards_the_batchs(rows):
    mean, var, count = running()
    pooled = torch.rand(rows, 1, 12, dtype=torch.float64) + 1
    assert switch_native.move_running(mean, var, count, pooled, 0.1)
    assert torch.allclose(mean, 0.1 * pooled[0, 0].float())
    assert torch.allclose(var, 0.9 + 0.1 * pooled[1, 0].float())
    assert count == 8


@pytest.mark.parametrize('place', [(0, 3), (1, 5)])
@pytest.mark.parametrize(
    'value', [float('inf'), float('-inf'), float('nan'), 1e300]
)
def test_a_batch_that_is_not_finite_moves_nothing(place, value):
    mean, var, count = running()
    pooled = torch.rand(2, 1, 12, dtype=torch.float64)
    pooled[place[0], 0, place[1]] = value
    assert switch_native.move_running(mean, var, count, pooled, 0.1)
    assert mean.eq(0).all() and var.eq(1).all() and count == 7


def test_a_batch_of_no_positions_moves_nothing():
    mean, var, count = running()
    pooled = torch.zeros(3, 1, 12, dtype=torch.float64)
    assert switch_native.move_running(mean, var, count, pooled, 0.1)
    assert var.eq(1).all() and count == 7


@pytest.mark.parametrize(
    'mean,var,count,pooled',
    [
        (running(11)[0], *running()[1:], torch.zeros(2, 1, 12)),
        (running()[0], running(13)[1], torch.tensor(7), torch.zeros(2, 1, 12)),
        (*running()[:2], torch.tensor([1, 2]), torch.zeros(2, 1, 12)),
        (*running()[:2], torch.tensor(7.0), torch.zeros(2, 1, 12)),
        (*running(), torch.zeros(4, 1, 12)),
        (*running(), torch.zeros(2, 2, 12)),
        (running()[0].half(), *running()[1:], torch.zeros(2, 1, 12)),
        (running()[0].to('meta'), *running()[1:], torch.zeros(2, 1, 12)),
        (running(24)[0][::2], *running()[1:], torch.zeros(2, 1, 12)),
    ],
)
def test_other_running_statistics_are_left_to_pytorch(
    mean, var, count, pooled
):
    assert not switch_native.move_running(
        mean, var, count, pooled.double(), 0.1
    )
    assert not switch_native.move_running(*running(), pooled.float(), 0.1)
    assert not switch_native.move_running(
        *running(), torch.zeros(2, 1, 12, dtype=torch.float64), None
    )
