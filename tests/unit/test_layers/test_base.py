# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What every layer has of RowNorm: checks, statistics, state dicts."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import nn
from torch.nn.functional import batch_norm
from torch.nn.utils import parametrize, prune

from sn_mm import RowNorm
from sn_mm.checkpoints import CheckpointError
from sn_mm.functional import normalize_rows, statistics
from sn_mm.functional.statistics import batch_extra
from tests.utils import assert_close, randomize, relative_error, run

LAST = torch.channels_last


class Batch(RowNorm):
    """Batch normalization, in as little as a subclass has to say."""

    settings = ('eps',)

    @property
    def uses_batch_statistics(self):
        return True

    def normalize(self, x):
        running = self.running_moments()

        def rule(m, v, size, weight, bias):
            if running is not None:
                mean, var, extras = *running, ()
            else:
                mean, var = statistics.batch(m, v, size)
                extras = (batch_extra(mean, var, None),)
            scale = (var + self.eps).rsqrt()
            scale = scale if weight is None else scale * weight
            return mean, scale, 0.0 if bias is None else bias, *extras

        result = normalize_rows(x, rule, self.weight, self.bias)
        if not isinstance(result, tuple):
            return result
        y, batch = result
        self.track(x, batch)
        return y


def test_it_is_the_batch_norm_that_it_says():
    layer, theirs = Batch(4), torch.nn.BatchNorm2d(4)
    for _ in range(3):
        x = torch.randn(5, 4, 6, 7)
        torch.testing.assert_close(layer(x), theirs(x))
    assert layer.num_batches_tracked == 3
    torch.testing.assert_close(layer.running_mean, theirs.running_mean)
    unbiased = 5 * 6 * 7 / (5 * 6 * 7 - 1)
    ours = 0.9**3 + (layer.running_var - 0.9**3) * unbiased
    torch.testing.assert_close(ours, theirs.running_var)
    x = torch.randn(5, 4, 6, 7)
    theirs.running_var.copy_(layer.running_var)
    torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


def test_running_statistics_by_mode():
    layer = Batch(4)
    assert layer.running_moments() is None
    mean, var = layer.eval().running_moments()
    assert mean is layer.running_mean and var is layer.running_var
    layer = Batch(4, bn_eval=True)
    assert layer.running_moments() is not None
    layer(torch.randn(2, 4, 3, 3))
    assert layer.num_batches_tracked == 0
    assert Batch(4, track_running_stats=False).eval().running_moments() is None
    with pytest.raises(ValueError, match='track_running_stats=True'):
        Batch(4, bn_eval=True, track_running_stats=False)


def test_an_empty_batch_moves_nothing():
    layer = Batch(4)
    assert layer(torch.empty(0, 4, 3, 3)).shape == (0, 4, 3, 3)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(
    'x, error, words',
    [
        (torch.randn(4), ValueError, r'rank 2 or more .*shape \(4,\)'),
        (torch.randn(2, 3, 5), ValueError, r'with 3 channels.*=3$'),
        (torch.ones(2, 4).long(), TypeError, r'torch.int64.*\.float\(\)'),
    ],
)
def test_inputs_that_do_not_fit(x, error, words):
    with pytest.raises(error, match=words):
        Batch(4)(x)


@pytest.mark.parametrize(
    'name', ['weight', 'bias', 'running_mean', 'running_var']
)
def test_a_tensor_of_another_length_is_named(name):
    """As pruning tools leave it."""
    layer = Batch(4)
    getattr(layer, name).data = torch.ones(3)
    with pytest.raises(ValueError, match=rf'{name} of this Batch .*\(3,\)'):
        layer(torch.randn(2, 4, 3, 3))


@pytest.mark.parametrize('number', [0, -1, 1.5, True, '4'])
def test_the_number_of_channels(number):
    with pytest.raises((TypeError, ValueError), match='num_features'):
        Batch(number)


def test_why_it_is_not_averaged():
    assert Batch(4).why_not_averaged() is None
    assert 'evaluation' in Batch(4).eval().why_not_averaged()
    assert Batch(4, bn_eval=True).why_not_averaged() == 'bn_eval'
    plain = Batch(4, track_running_stats=False)
    assert plain.why_not_averaged() == 'has no running statistics'


def test_parameters_as_in_a_new_layer():
    layer = Batch(4)
    with torch.no_grad():
        for t in (*layer.parameters(), layer.running_mean, layer.running_var):
            t.fill_(7)
    layer.reset_parameters()
    for name, value in Batch(4).state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name


def test_what_a_subclass_does_when_states_are_loaded():
    calls = []

    class Heeding(Batch):
        def check_loading(self, state_dict, prefix, errors):
            calls.append(('check', prefix, float(self.weight[0])))
            if state_dict[f'{prefix}weight'].sum() < 0:
                errors.append('it is refused')

        def after_loading(self, state_dict, prefix):
            calls.append(('after', prefix, float(self.weight[0])))

    model = torch.nn.Sequential(Heeding(2))
    state = model.state_dict()
    state['0.weight'] = torch.full((2,), 5.0)
    model.load_state_dict(state)
    assert calls == [('check', '0.', 1.0), ('after', '0.', 5.0)]
    with pytest.raises(RuntimeError, match='it is refused'):
        model.load_state_dict({**state, '0.weight': torch.full((2,), -1.0)})


def test_settings_that_would_compute_something_else():
    state = Batch(4, eps=1e-3).state_dict()
    with pytest.raises(CheckpointError, match='eps=0.001'):
        Batch(4).load_state_dict(state)
    Batch(4, eps=1e-3).load_state_dict(state)


def test_a_subclass_without_mathematics():
    with pytest.raises(NotImplementedError):
        RowNorm(4)(torch.randn(2, 4))


@pytest.mark.parametrize('shape', [(7, 6), (7, 6, 1, 1), (3, 6, 5, 4)])
@pytest.mark.parametrize('kind', ['BRN', 'PN', 'KN', 'BGN', 'GhostBN'])
def test_constant_maps_of_tensors_that_are_not_contiguous(kind, shape):
    """PyTorch's batch norm reads past their ends in its gradient."""
    groups = dict(num_groups=1) if kind == 'BGN' else {}
    layer = build_norm_layer(dict(type=kind, **groups), 6)[1].eval()
    randomize(layer)
    want, x = copy.deepcopy(layer).double(), torch.randn(shape)
    for name in ('weight', 'bias', *layer.running_names):
        own = layer._buffers if name in layer._buffers else layer._parameters
        t = own[name].detach()
        t = torch.stack([t, torch.full_like(t, torch.nan)], 1)[:, 0]
        own[name] = torch.nn.Parameter(t) if own is layer._parameters else t
    if len(shape) == 4:
        x = x.contiguous(memory_format=LAST)
    dy = torch.randn_like(x)
    got = run(layer, x, dy)
    assert_close(got, run(want, x.double(), dy.double()), 1e-4)
    moments = (t.contiguous() for t in want.inference_moments())
    weight, bias = want.weight.detach(), want.bias.detach()
    y = batch_norm(x.double(), *moments, weight, bias, eps=want.eps)
    assert relative_error(got['y'], y) < 1e-5


class Doubled(nn.Module):
    def forward(self, t):
        return 2 * t


@pytest.mark.parametrize('name', ['SN', 'SSN', 'SyncSN', 'KN', 'BHN', 'BRN'])
class TestTensorsThatAreAttributesAlone:
    """As DataParallel, pruning and parametrizations leave a layer's."""

    x = torch.randn(3, 8, 5, 4)

    def make(self, name):
        return MODELS.get(name)(8)

    @pytest.mark.parametrize('training', [False, True])
    def test_replicas(self, name, training):
        layer = self.make(name).train(training)
        replica = layer._replicate_for_data_parallel()
        for own, p in layer.named_parameters():
            setattr(replica, own, p.clone())
        for key in layer._buffers:
            if layer._buffers[key] is not None:
                setattr(replica, key, layer._buffers[key].clone())
        y = replica(self.x)
        y.square().sum().backward()
        torch.testing.assert_close(y, layer(self.x))
        assert all(p.grad.isfinite().all() for p in layer.parameters())

    def test_parametrizations(self, name):
        layer, plain = self.make(name), self.make(name)
        plain.load_state_dict(layer.state_dict())
        for own, _ in list(layer.named_parameters()):
            plain.get_parameter(own).data.mul_(2)
            parametrize.register_parametrization(layer, own, Doubled())
        torch.testing.assert_close(layer(self.x), plain(self.x))

    def test_pruning(self, name):
        layer = self.make(name)
        own, p = next(iter(layer.named_parameters()))
        prune.l1_unstructured(layer, own, 2)
        assert int((getattr(layer, own) == 0).sum()) >= 2
        layer(self.x).square().sum().backward()
        assert getattr(layer, f'{own}_orig').grad.shape == p.shape
