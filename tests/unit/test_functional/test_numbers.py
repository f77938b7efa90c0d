# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A rule's numbers: what it returns, and which kernels may compute it."""

from __future__ import annotations

import pytest
import torch

from sn_mm.functional import SwitchRule
from sn_mm.functional.numbers import (
    AnyRule,
    checked_results,
    numbers_of,
    register_fused,
)
from sn_mm.kernels import aten
from sn_mm.kernels.native import sweeps as native

SIZE, CPU = 12, torch.device('cpu')


def rule(m, v, size, weight, bias):
    scale = (v + 1e-3).rsqrt() * weight
    return m, scale, bias


def drawn(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=gen, dtype=torch.double) + 0.1


def test_factors_and_gradients_are_those_of_the_sweeps():
    """Backward in N x C numbers against autograd through x itself."""
    x = drawn(2, 3, 4, 3).requires_grad_()
    weight, bias = (drawn(3, seed=s).requires_grad_() for s in (1, 2))
    dy = drawn(2, 3, 4, 3, seed=3)
    m = x.mean((2, 3))
    v = (x - m[..., None, None]).square().mean((2, 3))
    centre, scale, shift = rule(m, v, SIZE, weight, bias)
    y = scale[..., None, None] * (x - centre[..., None, None])
    y = y + shift.view(1, 3, 1, 1)
    want = torch.autograd.grad(y, (x, weight, bias), dy)

    numbers = AnyRule(rule, SIZE, torch.double)
    moments = torch.stack([m, v]).detach()
    params = weight, bias
    (near, a, b), extras, brought = numbers.forward(moments, params)
    assert not extras and not brought
    wide = [t[..., None, None] for t in (near, a, b)]
    torch.testing.assert_close(wide[1] * (x - wide[0]) + wide[2], y)

    centred = x.detach() - wide[0]
    sums = torch.stack([dy.sum((2, 3)), (dy * centred).sum((2, 3))])
    factors, d_params = numbers.backward(
        moments, sums, params, brought, (), (True, True)
    )
    scale, slope, shift = (t[..., None, None] for t in factors)
    d_x = scale * dy + slope * centred + shift
    torch.testing.assert_close(d_x, want[0])
    torch.testing.assert_close(d_params, list(want[1:]))


def test_only_wanted_gradients_are_computed():
    numbers = AnyRule(rule, SIZE, torch.double)
    moments, params = drawn(2, 2, 3), (drawn(3), drawn(3))
    _, d_params = numbers.backward(
        moments, drawn(2, 2, 3), params, (), (), (False, True)
    )
    assert d_params[0] is None and d_params[1].shape == (3,)


def test_extras_are_differentiated_and_have_memory_of_their_own():
    def hands_on(m, v, size, gain):
        return m, gain * v.rsqrt(), 0.0, m, gain * v

    numbers = AnyRule(hands_on, SIZE, torch.double)
    moments, gain = drawn(2, 2, 3), drawn(3)
    _, extras, _ = numbers.forward(moments, (gain,))
    assert extras[0].data_ptr() != moments.data_ptr()
    grads = torch.zeros(2, 3).double(), torch.ones(2, 3).double()
    (_, slope, shift), (d_gain,) = numbers.backward(
        moments, torch.zeros_like(moments), (gain,), (), grads, (True,)
    )
    torch.testing.assert_close(d_gain, moments[1].sum(0))
    torch.testing.assert_close(slope, 2 * gain.expand(2, 3) / SIZE)
    assert not shift.any()


def test_a_rule_that_closes_over_a_parameter_is_refused():
    weight = torch.ones(3, requires_grad=True)

    def closes(m, v, size):
        return m, weight * v.rsqrt(), 0.0

    with pytest.raises(ValueError, match='closes over a tensor'):
        AnyRule(closes, SIZE, torch.double).forward(drawn(2, 2, 3), ())


@pytest.mark.parametrize('results', [None, (1.0, 2.0), torch.ones(3)])
def test_what_a_rule_must_return(results):
    with pytest.raises(TypeError, match='must return centre, scale and bias'):
        checked_results(rule, results, torch.ones(2, 3))


def test_shapes_that_do_not_broadcast():
    m = torch.ones(2, 3, dtype=torch.double)
    wrong = m, torch.ones(2, 1, 1), m
    with pytest.raises(ValueError, match=r'returned a scale .*\(2, 3\)'):
        checked_results(rule, wrong, m)
    extra = torch.ones(7, 7)
    for good in (torch.ones(3), torch.ones(2, 1), torch.ones(()), 2.0):
        made = checked_results(rule, (m, good, m, extra), m)
        assert made[1].dtype == m.dtype and made[3] is extra


def test_fused_numbers_are_chosen_by_exact_type():
    class Kind:
        pass

    class Fused(AnyRule):
        works = True

        @classmethod
        def is_usable(cls, device):
            return cls.works

    register_fused(Kind, 'aten', Fused)
    subclass = type('Sub', (Kind,), {})

    def chosen(kind, sweeps=aten):
        return type(numbers_of(kind(), sweeps, SIZE, torch.float32, CPU))

    assert chosen(Kind) is Fused
    assert chosen(Kind, native) is AnyRule
    assert chosen(subclass) is AnyRule
    Fused.works = False
    assert chosen(Kind) is AnyRule
    sn = SwitchRule(('in', 'bn'))
    made = numbers_of(sn, aten, SIZE, torch.float32, CPU)
    assert type(made) is AnyRule and made.rule is sn
