# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The twin in plain operations, and who is given it."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from sn_mm.functional import SwitchRule, normalize_rows
from sn_mm.functional.traced import (
    is_recorded,
    is_traced,
    leaves_torch,
    normalize_rows_traced,
)


def rule(m, v, size, gain):
    return m, gain * (v + 1e-3).rsqrt(), 0.5, m.sum(1)


def drawn(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=gen, dtype=torch.double)


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 1), (2, 3, 4, 5), (0, 3, 4)])
@pytest.mark.parametrize('relu', [False, True])
def test_it_is_the_function(shape, relu):
    x = drawn(*shape).requires_grad_()
    gain = drawn(3, seed=1).requires_grad_()
    results = []
    for y, extra in (
        normalize_rows(x, rule, gain, relu=relu),
        normalize_rows_traced(x, rule, (gain,), relu),
    ):
        dy, d_extra = drawn(*shape, seed=2), drawn(shape[0], seed=3)
        grads = torch.autograd.grad((y, extra), (x, gain), (dy, d_extra))
        results.append((y, extra, *grads))
    for one, other in zip(*results):
        torch.testing.assert_close(one, other)
    assert not relu or (results[0][0] >= 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Of x alone: the numbers of rows are wider."""
    x = (drawn(2, 4, 6, 5) + 8).to(dtype)
    logits = torch.zeros(3)
    sn = SwitchRule(('in', 'ln', 'bn'))
    y, _ = normalize_rows_traced(x, sn, (logits, logits))
    want, _ = normalize_rows(x.double(), sn, logits.double(), logits.double())
    assert y.dtype == dtype
    error = (y.double() - want).abs().max() / want.abs().max()
    assert error < 2 * torch.finfo(dtype).eps


def test_ordinary_tensors_are_not_followed():
    x = torch.randn(2, 3)
    assert not is_traced(x) and not is_traced(x.requires_grad_())
    assert not is_traced(torch.nn.Parameter(torch.randn(2, 3)))
    assert not is_recorded() and not leaves_torch()


def test_who_follows_operations():
    assert is_traced(torch.randn(2, 3, device='meta'))
    with FakeTensorMode():
        assert is_traced(torch.randn(2, 3))
    with forward_ad.dual_level():
        assert is_traced(torch.randn(2, 3))
    seen = []

    def look(x):
        seen.append((is_traced(x), is_recorded(), leaves_torch()))
        return x.sum()

    torch.func.grad(look)(torch.randn(3))
    torch.jit.trace(look, torch.randn(3), check_trace=False)
    assert seen == [(True, False, False), (True, True, True)]


def test_second_derivatives_of_no_positions():
    x = torch.zeros(2, 3, 0, dtype=torch.double, requires_grad=True)
    gain = torch.ones(3, dtype=torch.double, requires_grad=True)
    y = normalize_rows(x, rule, gain)[0]
    first = torch.autograd.grad(y.sum(), gain, create_graph=True)[0]
    assert first.tolist() == [0, 0, 0]


@pytest.mark.parametrize('scale', [2.0, 3])
def test_plain_numbers_are_recorded(scale):
    """Rules may return numbers in place of tensors, to exporters as well."""

    class Net(torch.nn.Module):
        def forward(self, x):
            return normalize_rows(x, lambda m, v, size: (0.5, scale, 1))

    x = drawn(2, 3, 4, 5)
    want = (x - 0.5) * scale + 1
    for net in (torch.export.export(Net(), (x,)).module(), Net()):
        torch.testing.assert_close(net(x), want)
