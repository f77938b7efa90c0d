# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""PN: what sets its moments, and what it says of itself."""

import copy
import warnings

import pytest
import torch
from torch import nn

import sn_mm
from sn_mm import SN
from sn_mm.layers import PN
from tests.utils import randomize, relative_error


def test_batch_average_measures_as_bn_does():
    """Two layers deep: the second one's input was normalized by batches."""
    torch.manual_seed(0)
    bn = nn.Sequential(
        nn.Conv2d(3, 8, 3), SN(8), nn.ReLU(), nn.Conv2d(8, 4, 3), SN(4)
    )
    bn = sn_mm.convert_norm(bn, dict(type='SN', statistics=('bn',)))
    pn = sn_mm.convert_norm(copy.deepcopy(bn), 'PN')
    assert [type(m) for m in pn][1] is PN
    batches = [torch.randn(2, 3, 9, 9) + i for i in range(4)]
    for model in (bn, pn):
        sn_mm.update_batch_average(model, batches, progress=False)
    for name, buffer in bn.named_buffers():
        if 'running' in name:
            torch.testing.assert_close(pn.get_buffer(name), buffer)
    for name, value in pn.named_parameters():
        assert torch.equal(value, bn.get_parameter(name))


def test_moments_are_constants():
    layer = randomize(PN(4))
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    y = layer(x)
    y.backward(torch.ones_like(y))
    scale = layer.weight / (layer.running_var + layer.eps).sqrt()
    want = scale.detach().view(1, 4, 1, 1).expand_as(x)
    torch.testing.assert_close(x.grad, want)
    assert torch.equal(layer.eval()(x), layer.train()(x))


def test_a_new_layer_warns_once():
    layer = PN(4)
    with pytest.warns(UserWarning, match='PopulationHook'):
        layer(torch.randn(2, 4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        layer(torch.randn(2, 4, 3))
        randomize(PN(4))(torch.randn(2, 4, 3))
        PN(4).eval()(torch.randn(2, 4, 3))


def test_moments_have_to_be_kept():
    with pytest.raises(ValueError, match='track_running_stats=True'):
        PN(4, track_running_stats=False)


def test_it_is_bn_in_evaluation_and_folds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    randomize(model[1])
    x = torch.randn(2, 3, 20, 20)
    want = model(x)
    state = model.state_dict()
    sn_mm.convert_norm(model, 'PN')
    assert type(model[1]) is PN and model.state_dict().keys() == state.keys()
    assert relative_error(model(x), want) < 1e-5
    folded = sn_mm.fold(model, size=64)
    assert isinstance(folded[1], nn.Identity)
    assert relative_error(folded(x), want) < 1e-5


def test_a_frozen_batch_norm_stays_what_it_was():
    norm = randomize(nn.BatchNorm2d(4))
    norm.requires_grad_(False)
    x = torch.randn(2, 4, 5, 5)
    want = norm.eval()(x)
    made = sn_mm.convert_norm(norm.train(), 'PN')
    assert type(made) is PN and made.bn_eval
    assert relative_error(made(x), want) < 1e-5


@pytest.mark.filterwarnings('ignore:PN trains with the moments')
def test_batch_average_leaves_bn_eval_alone():
    model = nn.Sequential(PN(4, bn_eval=True), PN(4))
    done = sn_mm.update_batch_average(
        model, [torch.randn(2, 4, 5)], progress=False
    )
    assert done.layers == ['1'] and done.left == {'0': 'bn_eval'}
    assert model[0].is_new() and not model[1].is_new()
