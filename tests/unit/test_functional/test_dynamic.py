# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Dynamic Normalization's rule, with any gates: numbers of other code."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from sn_mm.functional import normalize_rows
from sn_mm.functional.dynamic import (
    DynamicRule,
    binary_gates,
    factors_of,
    pool_by_gates,
)
from sn_mm.functional.reference import dynamic_norm_reference
from tests.paths import DATA
from tests.utils import relative_error

FIXTURE = np.load(DATA / 'family/formula_dn_gates.npz')
CASES = [key.partition('.')[0] for key in FIXTURE if key.endswith('.gates_c')]
EPS = 1e-5


def entries(case):
    prefix = f'{case}.'
    return {
        key[len(prefix) :]: torch.from_numpy(FIXTURE[key])
        for key in FIXTURE
        if key.startswith(prefix)
    }


def run(x, dy, function):
    x = x.clone().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y, x, dy)[0]


def normalized(x, gates_c, gates_n, rule=None):
    gates = [torch.as_tensor(g).double() for g in (gates_c, gates_n)]
    return normalize_rows(x, rule or DynamicRule(EPS), *gates, None, None)


def test_the_fixture_is_of_formulas():
    assert 'formulas' in json.loads(str(FIXTURE['info']))['source']
    assert len(CASES) == 7


@pytest.mark.parametrize('case', CASES)
def test_numbers_of_other_code(case):
    want = entries(case)
    x, dy = (torch.from_numpy(FIXTURE[name]) for name in ('x', 'dy'))
    gates = want['gates_c'], want['gates_n']
    y, dx = run(x, dy, lambda x: normalized(x, *gates))
    assert relative_error(y, want['y']) < 1e-12
    assert relative_error(dx, want['dx']) < 1e-12
    axes = (2, 3)
    m, v = x.mean(axes), x.var(axes, unbiased=False)
    pooled = pool_by_gates((m, v), gates[1].double(), 0)
    mean, var = pool_by_gates(pooled, gates[0].double(), 1)
    assert relative_error(mean, want['mean']) < 1e-12
    assert relative_error(var, want['var']) < 1e-12


@pytest.mark.parametrize(
    'shape',
    [(4, 8, 5, 7), (2, 24, 6), (3, 96, 2, 3), (5, 40, 4, 4), (1, 7, 9)],
)
def test_special_cases(shape):
    """IN, LN, BN and GN of PyTorch, for any C and N."""
    torch.manual_seed(0)
    x = 3 * torch.randn(shape, dtype=torch.double) + 5
    dy = torch.randn(shape, dtype=torch.double)
    samples, channels = (len(factors_of(size)) for size in shape[:2])
    apart, pooled = [0] * channels, [1] * channels
    cases = [
        (apart, [0] * samples, lambda x: nn.functional.instance_norm(x)),
        (pooled, [0] * samples, lambda x: nn.functional.group_norm(x, 1)),
        (
            apart,
            [1] * samples,
            lambda x: nn.functional.batch_norm(x, None, None, training=True),
        ),
    ]
    groups = 1
    for number, size in enumerate(factors_of(shape[1])):
        groups *= size
        gates = [int(i > number) for i in range(channels)]
        cases.append(
            (
                gates,
                [0] * samples,
                lambda x, g=groups: nn.functional.group_norm(x, g),
            )
        )
    for gates_c, gates_n, function in cases:
        got = run(x, dy, lambda x, c=gates_c, n=gates_n: normalized(x, c, n))
        for ours, theirs in zip(got, run(x, dy, function)):
            assert relative_error(ours, theirs) < 1e-12, (gates_c, gates_n)


def test_gradients_of_gates_between_0_and_1():
    torch.manual_seed(1)
    x = torch.randn(4, 12, 5, dtype=torch.double)
    inputs = [
        t.requires_grad_()
        for t in (
            *(x, torch.rand(3).double(), torch.rand(2).double()),
            *torch.randn(2, 12, dtype=torch.double),
        )
    ]
    dy = torch.randn_like(x)
    want = torch.autograd.grad(
        dynamic_norm_reference(*inputs, eps=EPS), inputs, dy
    )
    y = normalize_rows(inputs[0], DynamicRule(EPS), *inputs[1:])
    for got, other in zip(torch.autograd.grad(y, inputs, dy), want):
        assert relative_error(got, other) < 1e-12


def test_a_large_mean_costs_no_digits():
    torch.manual_seed(2)
    x = torch.randn(4, 8, 50, dtype=torch.double) * 1e-3
    near = normalized(x, [0, 1, 1], [1, 0])
    far = normalized(x + 1000, [0, 1, 1], [1, 0])
    assert relative_error(far, near) < 1e-8


def test_the_wrong_number_of_gates():
    x = torch.randn(2, 24, 3)
    with pytest.raises(ValueError, match=r'24 rows are \(2, 2, 2, 3\).*got 3'):
        normalized(x, [0, 0, 0], [0])


def test_gates_open_above_0_and_pass_their_gradient():
    values = torch.tensor([-1.0, 0.0, 1e-8, 2.0], requires_grad=True)
    gates = binary_gates(values)
    assert gates.tolist() == [0, 0, 1, 1]
    gates.backward(torch.arange(4.0))
    assert values.grad.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    'number, factors',
    [
        (1, ()),
        (2, (2,)),
        (24, (2, 2, 2, 3)),
        (96, (2,) * 5 + (3,)),
        (1280, (2,) * 8 + (5,)),
        (7, (7,)),
    ],
)
def test_factors(number, factors):
    assert factors_of(number) == factors
