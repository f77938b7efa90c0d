# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN's fused numbers in C, called as the autograd function calls them."""

from __future__ import annotations

import pytest
import torch

from sn_mm.functional import SwitchRule
from sn_mm.functional.numbers import AnyRule, numbers_of
from sn_mm.functional.switch_numbers import NativeSwitch, SwitchNumbers
from sn_mm.kernels.fused import switch_native
from sn_mm.kernels.native import sweeps as native
from tests.utils import relative_error

CPU = torch.device('cpu')
pytestmark = pytest.mark.skipif(
    bool(switch_native.why_not()), reason='no compiler of C'
)
STATISTICS = ('in', 'ln', 'bn', 'gn')


def drawn(*shape, seed=0, dtype=torch.float32):
    gen = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=gen).to(dtype) + 0.1


def both(rule, size):
    fused = numbers_of(rule, native, size, torch.float32, CPU)
    assert type(fused) is NativeSwitch
    return fused, AnyRule(rule, size, torch.float32)


@pytest.mark.parametrize('size', [1, 49])
@pytest.mark.parametrize('unbiased', [False, True])
@pytest.mark.parametrize('given', [False, True])
def test_equal_to_the_rule(size, unbiased, given):
    n, c, sets = 5, 12, 3
    running = (drawn(c, seed=8), drawn(c, seed=9)) if given else None
    rule = SwitchRule(
        STATISTICS, unbiased=unbiased, num_groups=4, running=running
    )
    moments = drawn(2, n, c, dtype=torch.double)
    if size == 1:
        moments[1] = 0
    params = (
        drawn(sets, 4, seed=1),
        drawn(sets, 4, seed=2),
        drawn(c, seed=3),
        drawn(c, seed=4),
    )
    sums = drawn(2, n, c, seed=5, dtype=torch.double)
    results = []
    for numbers in both(rule, size):
        factors, extras, brought = numbers.forward(moments, params)
        again = numbers.factors(moments, params, brought)
        for one, other in zip(factors, again):
            assert torch.equal(one, other)
        no_extras = [None] * len(extras)
        back, d_params = numbers.backward(
            moments, sums, params, brought, no_extras, (True,) * 4
        )
        results.append((*factors, *extras, *back, *d_params))
    fused, plain = results
    assert len(fused) == len(plain) == 10 + (not given)
    for one, other in zip(fused, plain):
        assert relative_error(one[:2], other[:2]) < 1e-6


def test_gradients_that_nobody_wants():
    rule = SwitchRule(('in', 'bn'))
    numbers, _ = both(rule, 9)
    moments, sums = (drawn(2, 3, 4, dtype=torch.double) for _ in range(2))
    params = drawn(2), drawn(2), None, None
    _, _, brought = numbers.forward(moments, params)
    _, grads = numbers.backward(
        moments, sums, params, brought, [None], (False, True, False, False)
    )
    assert [g is None for g in grads] == [True, False, True, True]


def test_gradients_have_the_dtype_of_the_parameters():
    numbers, _ = both(SwitchRule(('in', 'bn')), 9)
    moments, sums = (drawn(2, 3, 4, dtype=torch.double) for _ in range(2))
    params = tuple(drawn(k).bfloat16() for k in (2, 2, 4, 4))
    _, _, brought = numbers.forward(moments, params)
    _, grads = numbers.backward(
        moments, sums, params, brought, [None], (True,) * 4
    )
    assert {g.dtype for g in grads} == {torch.bfloat16}


def test_what_the_kernels_are_told():
    def told(rule, size):
        return SwitchNumbers(rule, size, torch.float32).switch

    rule = SwitchRule(('in', 'ln'), 1e-3, unbiased=True, num_groups=8)
    assert told(rule, 5)._asdict() == dict(
        statistics=('in', 'ln'),
        num_groups=8,
        softmax=True,
        bessel=1.25,
        drop_instance=False,
        eps=1e-3,
    )
    assert told(rule, 1).drop_instance and told(rule, 1).bessel == 1
    assert not told(SwitchRule(('in',)), 1).drop_instance
    sparse = SwitchRule(('in', 'ln'), softmax=False)
    assert not told(sparse, 1).drop_instance  # its ratios already have none
