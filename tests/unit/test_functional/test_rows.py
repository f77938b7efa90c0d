# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Any rule through normalize_rows, against float64 autograd of its meaning."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm.functional import normalize_rows, statistics
from tests.utils import relative_error, usable_backends

from .foreign_rules import NAMES, Case, cases

# One position; one row; odd extents that no vector width divides; RoI-like;
# one sample; without and with three axes of positions.
SHAPES = [
    (4, 6, 1, 1),
    (3, 6, 1, 7),
    (2, 6, 13, 9),
    (17, 6, 7, 7),
    (1, 6, 33, 31),
    (5, 6),
    (2, 6, 3, 4, 5),
]
BACKENDS = pytest.mark.parametrize('backend', usable_backends())


def batch(shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    offsets = torch.randn(*shape[:2], *[1] * (len(shape) - 2), generator=gen)
    return 2 * torch.randn(shape, generator=gen) + 2 * offsets


def outputs_and_gradients(function, x, params, seed=1):
    """Of a loss in which every output counts."""
    x = x.detach().requires_grad_()
    params = [p.detach().requires_grad_() for p in params]
    outputs = function(x, *params)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gen = torch.Generator().manual_seed(seed)
    loss = sum(
        (y * torch.randn(y.shape, generator=gen).to(y.dtype)).sum()
        for y in outputs
    )
    grads = torch.autograd.grad(loss, (x, *params), allow_unused=True)
    return [*outputs, *grads]


def assert_is_the_oracle(case: Case, x, params, tolerance, backend=None):
    got = outputs_and_gradients(
        lambda x, *p: normalize_rows(x, case.rule, *p, backend=backend),
        x,
        params,
    )
    want = outputs_and_gradients(
        lambda x, *p: of_any_rank(case.oracle, x, p),
        x.double(),
        [p.double() for p in params],
    )
    assert len(got) == len(want)
    for i, (a, b) in enumerate(zip(got, want)):
        assert a.isfinite().all()
        assert relative_error(a, b, floor=1.0) < tolerance, i


def of_any_rank(oracle, x, params):
    """An oracle's outputs, which needs an axis of positions."""
    if x.dim() > 2:
        return oracle(x, *params)
    y, *extras = oracle(x[..., None], *params)
    return (y[..., 0], *extras)


@BACKENDS
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_foreign_rules_are_exact(name, shape, backend):
    case = cases(shape[1])[name]
    x = batch(shape)
    params = case.params(*shape[:2])
    assert_is_the_oracle(case, x, params, 1e-6, backend)


@pytest.mark.parametrize('name', NAMES)
def test_float64_is_exact(name):
    case = cases(6)[name]
    x = batch((3, 6, 5, 4)).double()
    params = [p.double() for p in case.params(3, 6)]
    assert_is_the_oracle(case, x, params, 1e-12)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name', NAMES)
def test_second_derivatives(name, dtype):
    """Not gradcheck: stop-gradients are no derivatives of the output."""
    case = cases(6)[name]
    x, given = batch((3, 6, 4, 5)), case.params(3, 6)

    def second(function, dtype):
        inputs = [t.to(dtype).requires_grad_() for t in (x, *given)]
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        first = torch.autograd.grad(
            sum(y.pow(3).sum() for y in outputs), inputs, create_graph=True
        )
        return torch.autograd.grad(
            sum(g.square().sum() for g in first), inputs
        )

    got = second(lambda x, *p: normalize_rows(x, case.rule, *p), dtype)
    want = second(case.oracle, torch.float64)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-11
    for a, b in zip(got, want):
        assert relative_error(a, b) < tolerance


@BACKENDS
@pytest.mark.parametrize('shape', [(2, 6, 13, 9), (17, 6, 7, 7)])
def test_relu_in_the_same_sweeps(shape, backend):
    case = cases(6)['half and half']
    params = case.params(*shape[:2])
    got = outputs_and_gradients(
        lambda x, *p: normalize_rows(
            x, case.rule, *p, relu=True, backend=backend
        ),
        batch(shape),
        params,
    )
    want = outputs_and_gradients(
        lambda x, *p: case.oracle(x, *p)[0].relu(),
        batch(shape).double(),
        [p.double() for p in params],
    )
    for a, b in zip(got, want):
        assert relative_error(a, b, floor=1.0) < 1e-6


@BACKENDS
def test_only_extras_are_used(backend):
    case = cases(6)['hyper']
    x = batch((3, 6, 5, 4)).requires_grad_()
    params = [p.requires_grad_() for p in case.params(3, 6)]
    _, h, c = normalize_rows(x, case.rule, *params, backend=backend)
    got = torch.autograd.grad(h.sum() + c.square().sum(), (x, *params[:4]))
    wide = [t.detach().double().requires_grad_() for t in (x, *params)]
    _, h, c = case.oracle(*wide)
    want = torch.autograd.grad(h.sum() + c.square().sum(), wide[:5])
    for a, b in zip(got, want):
        assert relative_error(a, b) < 1e-6


def test_a_chain_that_hands_its_state_on():
    """Extras of one call are params of the next, with gradients."""
    case = cases(6)['kalman']
    _, _, gain, weight, bias = case.params(3, 6)

    def chain(function, x, mean, var, *rest):
        for _ in range(3):
            x, mean, var = function(x, mean, var, *rest)
        return x, mean, var

    start = case.params(3, 6)[:2]
    x = batch((3, 6, 4, 5))
    got = outputs_and_gradients(
        lambda *a: chain(lambda x, *p: normalize_rows(x, case.rule, *p), *a),
        x,
        [*start, gain, weight, bias],
    )
    want = outputs_and_gradients(
        lambda *a: chain(case.oracle, *a),
        x.double(),
        [t.double() for t in (*start, gain, weight, bias)],
    )
    for a, b in zip(got, want):
        assert relative_error(a, b, floor=1.0) < 2e-6


def test_parameters_without_gradients_get_none():
    case = cases(6)['half and half']
    x = batch((3, 6, 5, 4))
    weight, bias = case.params(3, 6)
    y = normalize_rows(x, case.rule, weight.requires_grad_(), bias)
    assert torch.autograd.grad(y.sum(), weight)[0].isfinite().all()


def test_plain_numbers_and_none():
    def rule(m, v, size, nothing):
        assert nothing is None
        return m, (v + EPS).rsqrt(), 0.0

    EPS = 1e-5
    x = batch((2, 3, 6, 5)).requires_grad_()
    y = normalize_rows(x, rule, None)
    want = nn.functional.instance_norm(x)
    assert relative_error(y, want) < 1e-6
    got, want = (
        torch.autograd.grad(t.square().mul(x.detach()).sum(), x)[0]
        for t in (y, want)
    )
    assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize('samples, extent', [(0, 4), (3, 0)])
def test_empty_inputs(samples, extent):
    for name, case in cases(6).items():
        x = torch.zeros(samples, 6, extent, 5, requires_grad=True)
        params = [p.requires_grad_() for p in case.params(samples, 6)]
        result = normalize_rows(x, case.rule, *params)
        y = result[0] if isinstance(result, tuple) else result
        assert y.shape == x.shape, name
        grads = torch.autograd.grad(y.sum(), (x, *params), allow_unused=True)
        assert not any(g.any() for g in grads if g is not None), name


class TestRefusals:
    x = batch((2, 3, 4, 5)).requires_grad_()

    def test_closing_over_a_parameter(self):
        weight = torch.ones(3, requires_grad=True)
        with pytest.raises(ValueError, match='closes over a tensor'):
            normalize_rows(
                self.x, lambda m, v, size: (m, weight * v.rsqrt(), 0.0)
            )

    def test_closing_over_a_module(self):
        linear = nn.Linear(3, 3).double()
        with pytest.raises(ValueError, match='pass it to normalize_rows'):
            normalize_rows(self.x, lambda m, v, size: (m, linear(m), 0.0))

    def test_closing_over_constants_is_fine(self):
        weight = torch.ones(3)
        normalize_rows(
            self.x, lambda m, v, size: (m, weight * v.rsqrt(), 0.0)
        ).sum().backward()

    def test_shapes_that_do_not_broadcast(self):
        with pytest.raises(ValueError, match='scale of shape .4,.*does not'):
            normalize_rows(self.x, lambda m, v, size: (m, torch.ones(4), 0.0))

    def test_too_few_results(self):
        with pytest.raises(TypeError, match='centre, scale and bias'):
            normalize_rows(self.x, lambda m, v, size: (m, v))

    @pytest.mark.parametrize('x', [torch.ones(2, 3).long(), torch.ones(3)])
    def test_inputs(self, x):
        with pytest.raises((TypeError, ValueError), match='expected'):
            normalize_rows(x, lambda m, v, size: (m, v, 0.0))

    def test_sparse_inputs(self):
        with pytest.raises(TypeError, match='to_dense'):
            normalize_rows(
                torch.eye(4).to_sparse(), lambda m, v, size: (m, v, 0.0)
            )


@pytest.mark.parametrize('shape', [(8, 16, 7, 7), (2, 16, 40, 40)])
def test_kept_for_backward_is_the_input(shape):
    """Short rows keep no moments; long ones keep less than 2% more."""
    x = torch.randn(shape, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        normalize_rows(x, lambda m, v, size: (m, v.rsqrt(), 0.0))
    kept = sum(t.numel() * t.element_size() for t in saved)
    assert kept <= 1.02 * x.numel() * x.element_size()


def test_in_place_relu_after_it():
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    y = normalize_rows(x, lambda m, v, size: (m, (v + 1).rsqrt(), 0.0))
    nn.functional.relu(y, inplace=True).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize('mean', [1e3, 1e5])
def test_large_means_cost_no_digits(mean):
    case = cases(6)['half and half']
    x = torch.randn(3, 6, 21, 23) + mean
    params = case.params(3, 6)
    assert_is_the_oracle(case, x, params, 1e-5)


def test_rules_see_float64_and_the_size():
    seen = []

    def rule(m, v, size):
        seen.append((m.dtype, v.shape, size))
        return m, (v + 1).rsqrt(), 0.0

    normalize_rows(torch.randn(2, 3, 4, 5), rule)
    assert seen == [(torch.float64, (2, 3), 20)]


def test_statistics_are_the_defining_moments():
    x = batch((3, 8, 4, 5)).double()
    rows = x.flatten(2)
    m, v = rows.mean(-1), rows.var(-1, unbiased=False)

    def check(got, values, dims):
        mean, var = direct_moments(values, dims)
        for own, want in zip(got, (mean, var)):
            want = want.expand(*own.shape[:2])
            torch.testing.assert_close(own, want)

    def direct_moments(values, dims):
        return (
            values.mean(dims, keepdim=True).squeeze(-1),
            values.var(dims, unbiased=False, keepdim=True).squeeze(-1),
        )

    check(statistics.instance(m, v), rows, 2)
    check(statistics.layer(m, v), rows, (1, 2))
    check(statistics.batch(m, v, 20), rows, (0, 2))
    mean, var = statistics.group(m, v, 4)
    grouped = rows.reshape(3, 4, -1)
    torch.testing.assert_close(mean, grouped.mean(-1).repeat_interleave(2, 1))
    torch.testing.assert_close(
        var, grouped.var(-1, unbiased=False).repeat_interleave(2, 1)
    )
    given = torch.randn(8), torch.rand(8)
    for own, want in zip(statistics.running(m, v, *given), given):
        torch.testing.assert_close(own[0], want.double())
    with pytest.raises(ValueError, match='num_groups=3'):
        statistics.group(m, v, 3)


def scaled(m, v, size, weight, bias):
    """By (N, C) results that hold their elements several times."""
    mean = m.mean(1, keepdim=True).expand_as(m)
    scale = weight * (v.mean(0, keepdim=True) + 1e-3).rsqrt()
    return mean, scale.expand_as(m), bias.expand_as(m)


def scaled_oracle(x, weight, bias):
    m = x.mean((2, 3))
    v = (x - over(m)).square().mean((2, 3))
    centre, scale, bias = (over(t) for t in scaled(m, v, 20, weight, bias))
    return scale * (x - centre) + bias


def over(t):
    return t[..., None, None]


def by_rule(x, *params):
    return normalize_rows(x, scaled, *params)


class TestParamsThatAreNoLeaves:
    """A gradient is of the one argument alone, with create_graph too."""

    def agree(self, function):
        def derivatives(normalize, dtype):
            x = batch((2, 6, 4, 5)).to(dtype).requires_grad_()
            w = (torch.arange(6.0) / 6 + 0.5).to(dtype).requires_grad_()
            y = function(normalize, x, w)
            first = torch.autograd.grad(y.pow(3).sum(), (x, w), **GRAPH)
            loss = sum(g.square().sum() for g in first)
            return [*first, *torch.autograd.grad(loss, (x, w))]

        GRAPH = dict(create_graph=True)
        want = derivatives(scaled_oracle, torch.float64)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.double, 1e-11)):
            for got, value in zip(derivatives(by_rule, dtype), want):
                assert relative_error(got, value) < tolerance

    def test_a_function_of_the_input(self):
        self.agree(lambda f, x, w: f(x, w * x.mean((0, 2, 3)).sigmoid(), w))

    def test_a_function_of_each_other(self):
        self.agree(lambda f, x, w: f(x, w, w.square()))

    def test_the_same_twice(self):
        self.agree(lambda f, x, w: f(x, w, w))


@BACKENDS
@pytest.mark.parametrize('relu', [False, True])
def test_batched_gradients(backend, relu):
    """What torch.autograd.functional's vectorize=True asks for."""
    x = batch((2, 6, 4, 5)).requires_grad_()
    params = [torch.rand(6, requires_grad=True) for _ in range(2)]
    y = normalize_rows(x, scaled, *params, backend=backend, relu=relu)
    dy = torch.randn(3, *y.shape)
    inputs, keep = (x, *params), dict(retain_graph=True)
    got = torch.autograd.grad(y, inputs, dy, is_grads_batched=True, **keep)
    each = [torch.autograd.grad(y, inputs, d, **keep) for d in dy]
    for g, parts in zip(got, zip(*each)):
        assert relative_error(g, torch.stack(parts).double()) < 1e-5


class TestOddResults:
    """Each is refused by name, and with what to do."""

    x = batch((2, 3, 4, 5)).requires_grad_()

    @pytest.mark.parametrize(
        'bias, error, text',
        [
            (None, TypeError, 'a bias that is a NoneType.*0.0 for no bias'),
            ('0', TypeError, 'a bias that is a str'),
            (1j, TypeError, 'a bias that is a complex'),
            (torch.ones(3) + 1j, TypeError, 'bias of torch.complex64'),
            (torch.eye(3)[:2].to_sparse(), TypeError, 'torch.sparse_coo'),
            (torch.ones(3, device='meta'), ValueError, 'bias on meta.*cpu'),
        ],
    )
    def test_bias(self, bias, error, text):
        with pytest.raises(error, match=text):
            normalize_rows(self.x, lambda m, v, size: (m, v, bias))

    @pytest.mark.parametrize('extra', [None, 1.0])
    def test_extras(self, extra):
        with pytest.raises(TypeError, match='an extra.*new_tensor'):
            normalize_rows(self.x, lambda m, v, size: (m, v, 0.0, extra))

    @pytest.mark.parametrize('param', [2.0, [torch.ones(3)]])
    def test_params(self, param):
        with pytest.raises(TypeError, match='param 1 of the rule is a'):
            normalize_rows(
                self.x, lambda m, v, size, *p: (m, v, 0.0), None, param
            )

    def test_no_tensor(self):
        with pytest.raises(TypeError, match='expected a tensor.*got a list'):
            normalize_rows([1.0], lambda m, v, size: (m, v, 0.0))


@pytest.mark.parametrize('kind', ['usual', 'empty', 'traced'])
def test_a_backend_that_does_not_exist(kind):
    x = torch.rand(0 if kind == 'empty' else 2, 3, 4, 4)
    x = x.to('meta') if kind == 'traced' else x
    with pytest.raises(ValueError, match="unknown backend 'cudnn'.*native"):
        normalize_rows(
            x, lambda m, v, size: (m, v.rsqrt(), 0), backend='cudnn'
        )


@BACKENDS
@pytest.mark.parametrize('name', NAMES)
def test_gradients_enabled_within_inference_mode(name, backend):
    case, shape = cases(6)[name], SHAPES[2]
    x, params = batch(shape), case.params(*shape[:2])

    def normalized():
        y = normalize_rows(x, case.rule, *params, backend=backend)
        return y[0] if isinstance(y, tuple) else y

    with torch.no_grad():
        wanted = normalized()
    with torch.inference_mode(), torch.enable_grad():
        y = normalized()
    assert y.equal(wanted) and y.is_inference()
