# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Layers in scripted models: they run, and are the layers they were."""

import copy
import gc
import warnings

import pytest
import torch
from torch import nn

from sn_mm import SN, SSN, RowNorm, SyncSN
from tests.utils import randomize

LAYERS = {
    'SN': lambda: SN(4),
    'no affine, no bn': lambda: SN(4, affine=False, statistics=('in', 'ln')),
    'cumulative': lambda: SN(4, momentum=None),
    'groups': lambda: SN(4, statistics=('gn', 'bn'), num_groups=2),
    'SSN': lambda: SSN(4, ratio_groups=2),
    'SyncSN': lambda: SyncSN(4, sync_group=2),
}


def step(model, x):
    """Output and gradients; the state moves."""
    x = x.clone().requires_grad_()
    y = model(x)
    grads = torch.autograd.grad(
        y.pow(3).sum(), [x, *model.parameters()], allow_unused=True
    )
    return [y, *(g for g in grads if g is not None)]


@pytest.mark.parametrize('alone', [True, False])
@pytest.mark.parametrize('name', LAYERS)
def test_steps_are_those_of_the_layer(name, alone):
    layer = randomize(LAYERS[name]())
    model = layer if alone else nn.Sequential(nn.Identity(), layer)
    want = copy.deepcopy(model)
    scripted = torch.jit.script(model)
    del layer, model
    gc.collect()
    x = torch.randn(3, 4, 6, 5)
    for mode in (True, False, True):
        scripted.train(mode), want.train(mode)
        for a, b in zip(step(scripted, x), step(want, x)):
            assert torch.equal(a, b)
    state = want.state_dict()
    assert scripted.state_dict().keys() == state.keys()
    for key, value in scripted.state_dict().items():
        assert torch.equal(value, state[key]), key
    for model in (scripted, want):
        model.double().eval()
    assert torch.equal(scripted(x.double()), want(x.double()))


def test_layers_of_one_class_keep_apart():
    model = nn.Sequential(
        SN(4, eps=1e-3), SN(4, eps=0.1), SN(4, statistics=('bn', 'ln'))
    )
    want = copy.deepcopy(model)
    scripted = torch.jit.script(model)
    x = torch.randn(3, 4, 6, 5)
    for mode in (True, False):
        scripted.train(mode), want.train(mode)
        assert torch.equal(scripted(x), want(x))


def test_copies_of_a_scripted_model_have_their_own_state():
    scripted = torch.jit.script(nn.Sequential(SN(4)))
    other = copy.deepcopy(scripted)
    other(torch.randn(3, 4, 6, 5) + 1)
    assert other.state_dict()['0.running_mean'].any()
    assert not scripted.state_dict()['0.running_mean'].any()


def test_errors_name_the_layer():
    scripted = torch.jit.script(nn.Sequential(SN(4)))
    with pytest.raises(Exception, match='SN2d.num_features=4.*5 channels'):
        scripted(torch.randn(3, 5, 6, 5))


def test_warns_once_a_layer():
    scripted = torch.jit.script(nn.Sequential(SN(4)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for _ in range(3):
            scripted(torch.randn(2, 4, 1, 1))
    assert sum('single position' in str(w.message) for w in caught) == 1


def test_a_normalizer_of_somebody_else():
    """Its own attributes come along, those that torch cannot keep too."""

    class Scale(RowNorm):
        def __init__(self, num_features, function):
            super().__init__(num_features)
            self.function = function

        def normalize(self, x):
            return self.function(x) * self.weight.view(1, -1, 1, 1)

    scripted = torch.jit.script(nn.Sequential(Scale(4, torch.sin)))
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(scripted(x), x.sin())
