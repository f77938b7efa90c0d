# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Kalman Normalization: the rule, predictions, and the layers."""

import copy
import functools
import warnings

import pytest
import torch
from torch import Tensor, nn

from sn_mm.functional.kalman import (
    KalmanRule,
    expected_prediction,
    pseudo_sample,
    rectified_moments,
    sampled_prediction,
)
from sn_mm.functional.reference import kalman_norm_reference
from sn_mm.functional.rows import normalize_rows
from sn_mm.layers import KN, SyncKN
from sn_mm.layers.relay import relaying
from tests.distributed import run_processes
from tests.family import fixture_of
from tests.utils import relative_error, usable_backends

WEIGHTS = ('weight', 'bias')


def moments(seed: int, channels: int = 6) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    mean = torch.randn(channels, generator=gen).double()
    return mean, torch.rand(channels, generator=gen).double() + 0.3


def features(seed: int = 0, samples: int = 3, channels: int = 6) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    shape = (samples, channels, 5, 4)
    level = torch.randn(1, channels, 1, 1, generator=gen)
    return (torch.randn(shape, generator=gen) + level).double()


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def layer_of(p: float, kind: type = KN, seed: int = 5) -> KN:
    layer = kind(6, p=p).double()
    layer.is_relayed = True
    for own, value in zip((layer.weight, layer.bias), moments(seed)):
        own.data.copy_(value)
    return layer


# -- mixing --------------------------------------------------------------
def test_layer_fixture():
    """Outputs, relayed moments and all gradients."""
    data = fixture_of('formula_kn_layer_p0.05')
    names = ('x', 'pre_mean', 'pre_var', *WEIGHTS)
    inputs = leaves(*(data[n] for n in names))
    rule = KalmanRule(float(data['p']))
    y, mean, var, _ = normalize_rows(inputs[0], rule, *inputs[1:])
    loss = (y * data['dy']).sum() + 0.3 * mean.sum() + 0.2 * var.sum()
    grads = torch.autograd.grad(loss, inputs)
    assert relative_error(y, data['y']) < 1e-12
    assert relative_error(mean[0], data['mean_out']) < 1e-12
    assert relative_error(var[0], data['var_out']) < 1e-12
    for name, grad in zip(names, grads):
        assert relative_error(grad, data[f'd{name}']) < 1e-11, name


@pytest.mark.parametrize('backend', usable_backends())
def test_layer_fixture_in_float32(backend, monkeypatch):
    monkeypatch.setenv('SN_MM_BACKEND', backend)
    data = fixture_of('formula_kn_layer_p0.05')
    layer = KN(6, p=float(data['p']))
    layer.weight.data.copy_(data['weight'])
    layer.bias.data.copy_(data['bias'])
    (x,) = leaves(data['x'].float())
    predicted = data['pre_mean'].float(), data['pre_var'].float()
    with relaying(layer, lambda: predicted) as relay:
        y = layer(x)
    loss = (y * data['dy'].float()).sum()
    loss = loss + 0.3 * relay.left.mean.sum() + 0.2 * relay.left.var.sum()
    (dx,) = torch.autograd.grad(loss.float(), x)
    assert relative_error(y, data['y']) < 2e-6
    assert relative_error(dx, data['dx']) < 1e-5


@pytest.mark.parametrize('p', [0.0, 0.05, 0.5, 0.9, 1.0])
def test_mixing_is_the_reference(p):
    layer, x = layer_of(p), features()
    dy = features(1)
    results = []
    for by_layer in (True, False):
        inputs = leaves(x, *moments(3), layer.weight, layer.bias)
        x_, mean, var, weight, bias = inputs
        if by_layer:
            y, *mixed, _ = normalize_rows(
                x_, KalmanRule(p), mean, var, weight, bias
            )
        else:
            y, *mixed = kalman_norm_reference(
                x_, weight, bias, predicted=(mean, var), p=p
            )
        loss = (y * dy).sum() + mixed[0].exp().sum() + mixed[1].log().sum()
        grads = torch.autograd.grad(loss, inputs, allow_unused=True)
        results.append([y, *(m.flatten() for m in mixed), *grads])
    for got, want in zip(*results):
        want = torch.zeros_like(got) if want is None else want
        assert relative_error(got, want) < 1e-11


@pytest.mark.parametrize('factor', [99.0, 101.0, float('inf'), float('nan')])
def test_a_prediction_that_is_far_off_is_not_believed(factor):
    x = features()
    _, m, v = kalman_norm_reference(x)
    predicted = leaves(m + 1, factor * v)
    y, mean, var, _ = normalize_rows(x, KalmanRule(0.5), *predicted)
    grads = torch.autograd.grad((y * x).sum(), predicted)
    if factor < 100:
        assert (mean - m > 0.4).all() and any(g.any() for g in grads)
        return
    assert relative_error(y, kalman_norm_reference(x)[0]) < 1e-12
    assert relative_error(mean[0], m) < 1e-12
    assert relative_error(var[0], v) < 1e-12
    assert not any(g.any() for g in grads)


def test_constant_channels_give_no_nan():
    x = features()
    x[:, 2] = 3
    predicted = leaves(*moments(2))
    (leaf,) = leaves(x)
    y, mean, var, _ = normalize_rows(leaf, KalmanRule(0.9), *predicted)
    loss = y.sum() + mean.sum() + var.sum()
    for t in (y, *torch.autograd.grad(loss, (leaf, *predicted))):
        assert t.isfinite().all()


# -- prediction ----------------------------------------------------------
def test_propagation_fixture():
    data = fixture_of('formula_kn_propagate')
    names = ('weight', 'mean_in', 'var_in')
    weight, mean, var = inputs = leaves(*(data[n] for n in names))
    assert (
        relative_error(pseudo_sample(mean, var, data['z']), data['sample'])
        < 1e-13
    )
    convolve = functools.partial(
        nn.functional.conv2d, weight=weight, padding=1
    )
    got = sampled_prediction(convolve, mean, var, data['z'])
    channels = torch.arange(8.0).double()
    loss = ((channels + 1) * got[0]).sum() + ((8 - channels) * got[1]).sum()
    grads = torch.autograd.grad(loss, inputs)
    for value, name in zip(got, ('pre_mean', 'pre_var')):
        assert relative_error(value, data[name]) < 1e-12, name
    for grad, name in zip(grads, names):
        assert relative_error(grad, data[f'd{name}']) < 1e-12, name


@pytest.mark.parametrize('options', [{}, dict(groups=2), dict(bias=True)])
@pytest.mark.parametrize('size', [1, 3])
def test_closed_form_is_what_samples_tend_to(options, size):
    """Away from the border, over many positions."""
    torch.manual_seed(0)
    options = dict(dict(bias=False), **options)
    conv = nn.Conv2d(6, 4, size, **options).double()
    mean, var = moments(1)
    want = sampled_prediction(
        conv, mean, var, torch.randn(1, 6, 500, 500).double()
    )
    got = expected_prediction(conv, mean, var)
    for a, b in zip(got, want):
        assert relative_error(a, b) < 2e-2


def test_rectified_moments_of_normal_numbers():
    mean = torch.tensor([-2.0, -0.3, 0, 0.5, 40]).double()
    var = torch.tensor([1.0, 0.2, 4, 1e-3, 2]).double()
    z = torch.linspace(-9, 9, 400_001).double()
    density = torch.exp(-z.square() / 2)
    density = density / density.sum()
    values = (z * var.sqrt()[:, None] + mean[:, None]).clamp(min=0)
    first = (values * density).sum(1)
    second = ((values - first[:, None]).square() * density).sum(1)
    got = rectified_moments(mean, var)
    assert relative_error(got[0], first) < 1e-7
    assert relative_error(got[1], second) < 1e-6
    assert torch.autograd.gradcheck(
        rectified_moments, leaves(mean[:4], var[:4])
    )


@pytest.mark.parametrize('predict', [sampled_prediction, expected_prediction])
def test_prediction_of_channels_without_variance(predict):
    conv = nn.Conv2d(6, 4, 3, padding=1).double()
    inputs = leaves(moments(0)[0], torch.zeros(6).double())
    noise = torch.randn(1, 6, 5, 5).double()
    rest = (noise,) if predict is sampled_prediction else ()
    mean, var = predict(conv, *inputs, *rest)
    for t in (mean, var, *torch.autograd.grad(mean.sum() + var.sum(), inputs)):
        assert t.isfinite().all()


# -- layers --------------------------------------------------------------
def test_running_statistics_average_what_was_mixed():
    layer, predicted = layer_of(0.6), moments(9)
    mean, var = torch.zeros(6).double(), torch.ones(6).double()
    for seed in range(3):
        x = features(seed)
        with relaying(layer, lambda: predicted) as relay:
            y = layer(x)
        want = kalman_norm_reference(
            x, layer.weight, layer.bias, predicted=predicted, p=0.6
        )
        assert relative_error(y, want[0]) < 1e-12
        for got, own in zip(relay.left[:2], want[1:]):
            assert relative_error(got, own) < 1e-12
        assert relay.left.extent == x.shape[2:]
        mean, var = 0.9 * mean + 0.1 * want[1], 0.9 * var + 0.1 * want[2]
    assert relative_error(layer.running_mean, mean) < 1e-12
    assert relative_error(layer.running_var, var) < 1e-12
    layer.eval()
    with relaying(layer, pytest.fail) as relay:  # nothing is predicted
        y = layer(x)
    assert torch.equal(relay.left.mean, layer.running_mean)
    assert torch.equal(relay.left.var, layer.running_var)
    norm = nn.BatchNorm2d(6).double().eval()
    norm.load_state_dict(layer.state_dict())
    assert relative_error(y, norm(x)) < 1e-12


def test_frozen_running_statistics_in_training():
    layer = layer_of(0.6)
    layer.bn_eval = True
    before = copy.deepcopy(layer.state_dict())
    with relaying(layer, pytest.fail):
        layer(features())
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_nothing_of_a_call_stays():
    layer = layer_of(0.5)
    with relaying(layer, lambda: moments(1)) as relay:
        layer(features())
    assert layer.relay is None and relay.left.mean.requires_grad
    copy.deepcopy(layer)  # which a tensor of the graph would not allow
    with pytest.raises(ZeroDivisionError), relaying(layer, lambda: 1 / 0):
        layer(features())
    assert layer.relay is None


def test_alone_it_is_the_first_layer_and_says_so_once():
    first = KN(6)
    first.is_first = True
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        first(features().float())
        KN(6).eval()(features().float())
    with pytest.warns(UserWarning, match='KNResNet'):
        KN(6)(features().float())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        KN(6)(features().float())


@pytest.fixture(autouse=True)
def nobody_was_told(monkeypatch):
    monkeypatch.setattr('sn_mm.layers.base._SPOKEN', set())


@pytest.mark.parametrize('p', [-0.1, 1.5, 'much', True])
def test_the_gain_is_a_share(p):
    with pytest.raises((TypeError, ValueError), match='p must be'):
        KN(6, p=p)


# -- synchronized --------------------------------------------------------
def synchronized_step(rank: int) -> dict[str, Tensor]:
    """Two uneven shares, each with a prediction of its own."""
    share = (slice(0, 3), slice(3, 4))[rank]
    layer = layer_of(0.7, SyncKN)
    inputs = leaves(features(0, 4)[share], *moments(20 + rank))
    with relaying(layer, lambda: inputs[1:]) as relay:
        y = layer(inputs[0])
    mean, var, _ = relay.left
    loss = (y * features(1, 4)[share]).sum() + (mean * var).sum()
    grads = torch.autograd.grad(loss, (*inputs, layer.weight, layer.bias))
    names = ('x', 'mean', 'var', *WEIGHTS)
    return dict(
        y=y.detach(),
        relayed=torch.stack([mean, var]).detach(),
        running=layer.running_mean,
        **dict(zip(names, grads)),
    )


def test_processes_pool_their_predictions():
    got = run_processes(synchronized_step)
    inputs = leaves(features(0, 4), *moments(20), *moments(21))
    x, mean, var, other_mean, other_var = inputs
    # three samples of four in the first process
    pooled = 0.75 * mean + 0.25 * other_mean
    spread = 0.75 * (var + (mean - pooled).square()) + 0.25 * (
        other_var + (other_mean - pooled).square()
    )
    layer = layer_of(0.7)
    weights = leaves(layer.weight, layer.bias)
    y, m, v = kalman_norm_reference(
        x, *weights, predicted=(pooled, spread), p=0.7
    )
    # the loss of each process has the relayed moments
    loss = (y * features(1, 4)).sum() + 2 * (m * v).sum()
    want = torch.autograd.grad(loss, (*inputs, *weights))
    assert relative_error(torch.cat([g['y'] for g in got]), y) < 1e-12
    assert relative_error(torch.cat([g['x'] for g in got]), want[0]) < 1e-11
    for process, own in zip(got, (want[1:3], want[3:5])):
        assert relative_error(process['relayed'], torch.stack([m, v])) < 1e-12
        assert relative_error(process['running'], 0.1 * m) < 1e-12
        for name, grad in zip(('mean', 'var'), own):
            assert relative_error(process[name], grad) < 1e-11
    for name, grad in zip(WEIGHTS, want[5:]):
        assert relative_error(sum(g[name] for g in got), grad) < 1e-11
