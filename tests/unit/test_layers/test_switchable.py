# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import copy

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

import sn_mm
from sn_mm import SN, SN1d, SN2d, SN3d, SyncSN
from tests.utils import (
    assert_close,
    randomize,
    relative_error,
    run,
    run_reference,
)

ALL = [SN1d, SN2d, SN3d, SyncSN]
SHAPE = {
    SN1d: (3, 8, 11),
    SN2d: (3, 8, 5, 4),
    SN3d: (3, 8, 2, 3, 4),
    SyncSN: (3, 8, 5, 4),
}


@pytest.mark.parametrize(
    'kind,cls',
    [
        ('SN', SN2d),
        ('SN1d', SN1d),
        ('SN2d', SN2d),
        ('SN3d', SN3d),
        ('SyncSN', SyncSN),
    ],
)
def test_registered_and_named(kind, cls):
    name, layer = build_norm_layer(
        dict(type=kind, requires_grad=True), 8, postfix=1
    )
    assert name == 'sn1' and type(layer) is cls and layer.eps == 1e-5
    assert SN is SN2d and sn_mm.SN is SN2d


def test_rank_two_input():
    layer = SN1d(8)
    with pytest.warns(UserWarning, match='single position'):
        y = layer(torch.randn(5, 8))
    assert y.shape == (5, 8) and torch.isfinite(y).all()


@pytest.mark.parametrize('cls', ALL)
def test_parameters_and_buffers(cls):
    layer = cls(8)
    params = {n: tuple(p.shape) for n, p in layer.named_parameters()}
    assert params == dict(
        weight=(8,), bias=(8,), mean_weight=(3,), var_weight=(3,)
    )
    buffers = {n: tuple(b.shape) for n, b in layer.named_buffers()}
    assert buffers == dict(
        running_mean=(8,), running_var=(8,), num_batches_tracked=()
    )
    for p in (
        layer.weight,
        layer.mean_weight,
        layer.var_weight,
        layer.running_var,
    ):
        assert torch.equal(p, torch.ones_like(p))
    assert not layer.bias.any() and not layer.running_mean.any()


def test_optional_parts():
    bare = SN2d(8, affine=False, track_running_stats=False)
    assert bare.weight is None and not list(bare.buffers())
    x, dy = torch.randn(2, 3, 8, 5, 4).unbind(0)
    for training in (True, False):  # the batch's statistics, both times
        bare.train(training)
        assert_close(run(bare, x, dy), run_reference(bare, x, dy, False), 2e-4)
    no_bn = SN2d(8, statistics=('in', 'ln'), ratio_groups=4)
    assert not list(no_bn.buffers()) and no_bn.mean_weight.shape == (4, 2)
    assert not no_bn.track_running_stats


def test_ratios():
    layer = SN2d(8, statistics=('in', 'gn'), num_groups=4, ratio_groups=2)
    with torch.no_grad():
        layer.mean_weight[1, 0] = 3.0
    ratios = layer.ratios()
    assert set(ratios) == {'mean', 'var'}
    assert not ratios['mean'].requires_grad
    torch.testing.assert_close(
        ratios['mean'], layer.mean_weight.detach().softmax(-1)
    )
    torch.testing.assert_close(ratios['var'], torch.full((2, 2), 0.5))


def test_running_statistics_follow_the_batch():
    layer = SN2d(4, momentum=0.3)
    mean, var = torch.zeros(4), torch.ones(4)
    for i in range(3):
        x = torch.randn(2, 4, 5, 3 + i) * 2 + 1
        layer(x)
        mean = 0.7 * mean + 0.3 * x.mean((0, 2, 3))
        var = 0.7 * var + 0.3 * x.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)
    assert layer.num_batches_tracked == 3
    layer.eval()(x)
    assert layer.num_batches_tracked == 3


def test_cumulative_average():
    layer = SN2d(4, momentum=None)
    xs = [torch.randn(2, 4, 5, 5) + i for i in range(4)]
    for x in xs:
        layer(x)
    want = torch.stack([x.mean((0, 2, 3)) for x in xs]).mean(0)
    torch.testing.assert_close(layer.running_mean, want)


def test_unbiased_running_variance_is_the_public_codes():
    layer = SN2d(4, momentum=1.0, unbiased=True)
    x = torch.randn(3, 4, 2, 3)
    layer(x)
    rows = x.flatten(2)
    second = (rows.var(-1) + rows.mean(-1).square()).mean(0)
    want = second - rows.mean((0, 2)).square()
    torch.testing.assert_close(layer.running_var, want)


def test_bn_eval_normalizes_with_running_statistics():
    layer = randomize(SN2d(8, bn_eval=True))
    before = copy.deepcopy(dict(layer.named_buffers()))
    x, dy = torch.randn(2, 3, 8, 5, 4).unbind(0)
    assert layer.training
    assert_close(run(layer, x, dy), run_reference(layer, x, dy, True), 2e-4)
    for name, value in layer.named_buffers():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    'statistics,n', [(('in',), 3), (('in', 'bn'), 1), (('bn',), 1)]
)
def test_a_value_normalized_by_itself_is_the_bias(statistics, n):
    layer = randomize(SN2d(8, statistics=statistics))
    x, dy = torch.randn(2, n, 8, 1, 1).unbind(0)
    got = run(layer, x, dy)
    bias = layer.bias.view(1, 8, 1, 1).expand_as(x)
    torch.testing.assert_close(got['y'], bias, atol=1e-6, rtol=0)
    # zero, but for the rounding of weight / sqrt(eps) * dy
    bound = 2e-7 * (layer.weight.abs().max() * dy.abs().max()) / 1e-5**0.5
    assert got['x'].abs().max() <= bound


@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'statistics', [('in', 'ln'), ('in', 'gn', 'bn'), ('in', 'ln', 'bn', 'gn')]
)
def test_single_position(n, training, statistics):
    layer = randomize(SN2d(8, statistics=statistics, num_groups=2))
    layer.train(training)
    x, dy = torch.randn(2, n, 8, 1, 1).unbind(0)
    got = run(layer, x, dy)
    want = run_reference(layer, x, dy, 'bn' in statistics and not training)
    assert_close(got, want, 2e-4)


def test_single_position_warns_once_a_layer(recwarn):
    layer = SN2d(8)
    for _ in range(3):
        layer(torch.randn(2, 8, 1, 1))
    assert (
        len([w for w in recwarn if 'single position' in str(w.message)]) == 1
    )


@pytest.mark.parametrize('statistics', [('ln',), ('bn',), ('in',)])
def test_nothing_to_drop_does_not_warn(statistics, recwarn):
    SN2d(8, statistics=statistics)(torch.randn(2, 8, 1, 1))
    assert not [w for w in recwarn if 'single position' in str(w.message)]


def test_constant_input_is_finite():
    layer = SN2d(8)
    for value in (0.0, 7.0, -1e6):
        x = torch.full((2, 8, 4, 4), value)
        got = run(layer, x, torch.randn_like(x))
        assert all(torch.isfinite(t).all() for t in got.values())
        assert relative_error(got['y'], torch.zeros_like(x)) < 1e-3


def test_strided_input():
    layer = randomize(SN2d(8))
    whole = torch.randn(2, 3, 16, 10, 4)
    x, dy = whole[:, :, ::2, ::2].unbind(0)
    want = run(layer, x.contiguous(), dy.contiguous())
    assert_close(run(layer, x, dy), want, 1e-6)
    expanded = torch.ones(()).expand_as(x)  # what sum().backward() sends
    assert_close(
        run(layer, x, expanded),
        run(layer, x.contiguous(), torch.ones_like(x)),
        1e-6,
    )


def test_public_layout_loads():
    layer = randomize(SN2d(8))
    public = {
        'weight': layer.weight.detach().view(1, 8, 1, 1),
        'bias': layer.bias.detach().view(1, 8, 1, 1),
        'mean_weight': layer.mean_weight.detach(),
        'var_weight': layer.var_weight.detach(),
        'running_mean': layer.running_mean.view(1, 8, 1),
        'running_var': layer.running_var.view(1, 8, 1),
    }
    other = SN2d(8)
    assert not any(other.load_state_dict(dict(public), strict=True))
    x = torch.randn(SHAPE[SN2d])
    assert torch.equal(other.eval()(x), layer.eval()(x))
    model = nn.Sequential(SN2d(8))
    assert not any(
        model.load_state_dict({f'0.{k}': v for k, v in public.items()})
    )


def test_running_statistics_without_bn_are_unexpected_not_fatal():
    state = dict(SN2d(8).state_dict())
    for name in ('mean_weight', 'var_weight'):
        state[name] = state[name][:2]
    result = SN2d(8, statistics=('in', 'ln')).load_state_dict(
        state, strict=False
    )
    assert set(result.unexpected_keys) == {
        'running_mean',
        'running_var',
        'num_batches_tracked',
    }


def test_wrong_number_of_ratios_names_the_config():
    state = SN2d(8).state_dict()
    with pytest.raises(RuntimeError, match='set statistics in norm_cfg'):
        SN2d(8, statistics=('in', 'ln')).load_state_dict(state, strict=False)


def test_sync_and_plain_exchange_state():
    plain = randomize(SN2d(8))
    sync = SyncSN(8)
    sync.load_state_dict(plain.state_dict())
    x = torch.randn(SHAPE[SN2d])
    assert torch.equal(sync(x), plain(x))  # one process: the same layer
    assert torch.equal(sync.running_var, plain.running_var)


@pytest.mark.parametrize(
    'kwargs,error,words',
    [
        (dict(num_features=0), ValueError, 'num_features'),
        (dict(num_features='8'), TypeError, 'num_features'),
        (dict(statistics=()), ValueError, 'empty'),
        (dict(statistics='in'), TypeError, 'tuple or list'),
        (dict(statistics=('in', 'xn')), ValueError, "'xn'"),
        (dict(statistics=('in', 'in')), ValueError, 'duplicate'),
        (dict(statistics=('gn',), num_groups=3), ValueError, 'num_groups=3'),
        (dict(statistics=('gn',), num_groups=2.0), TypeError, 'num_groups'),
        (dict(ratio_groups=5), ValueError, 'ratio_groups=5'),
        (dict(ratio_groups=0), ValueError, 'ratio_groups'),
        (dict(statistics=('in', 'ln'), bn_eval=True), ValueError, 'bn_eval'),
        (dict(momentun=0.1), TypeError, 'momentun'),
    ],
)
def test_bad_arguments(kwargs, error, words):
    with pytest.raises(error, match=words):
        SN2d(**{'num_features': 8, **kwargs})


def test_default_num_groups_does_not_bother_other_statistics():
    assert SN2d(8).num_groups == 32  # does not divide 8, and is not used
