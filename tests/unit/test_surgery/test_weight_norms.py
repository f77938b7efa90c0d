# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Normalized weights: formulas, which layers, files, and the Runner."""

import copy
import warnings

import pytest
import torch
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmengine.registry import MODELS
from torch import nn

import sn_mm
from sn_mm.anatomy.norms import find_norms
from sn_mm.surgery.weight_norms import METHODS, plain_weights
from tests.builders import Toy, build, faster_rcnn_config, resnet, toy_runner
from tests.utils import relative_error

WN, CENTRED, SPECTRAL, WS = METHODS
ON = pytest.mark.parametrize('method', METHODS)
PARAMETRIZED = pytest.mark.parametrize('method', METHODS[:-1])


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, 1),
    )


def of_formula(weight, method):
    """The weight of output channels along axis 0, in float64."""
    rows = weight.detach().double().flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    if method == WN:
        made = rows
    elif method == CENTRED:
        made = centred
    elif method == SPECTRAL:
        made = rows / torch.linalg.matrix_norm(rows, 2)
    else:
        made = centred / (rows.std(1, keepdim=True) + 1e-5)
    return made.view_as(weight)


@ON
def test_formulas(method):
    model = network()
    before = copy.deepcopy(model)
    sn_mm.normalize_weights(model, method)
    x = torch.randn(2, 3, 9, 9)
    want = nn.functional.conv2d(
        x.double(),
        of_formula(before[0].weight, method),
        before[0].bias.double(),
    )
    assert relative_error(model.eval()[0](x), want) < 1e-3
    if method != WS:
        got = model[3].weight.transpose(0, 1)
        want = of_formula(before[3].weight.transpose(0, 1), method)
        assert relative_error(got, want) < 1e-3


@ON
def test_norms_are_those_of_before(method):
    """What normalizes weights is no norm layer, whatever its name."""
    model = network()
    norms = find_norms(model)
    sn_mm.normalize_weights(model, method)
    assert find_norms(model) == norms and len(norms) == 2


@PARAMETRIZED
def test_normalized_weights_are_no_norm_behind(method):
    """A layer that predicts, in front of one that is parametrized."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1), network(), *network()[:2])
    sn_mm.normalize_weights(model, method, include='1.0')
    sn_mm.normalize_weights(model, WS)
    assert [type(model[i]) for i in (0, 2)] == [nn.Conv2d, ConvWS2d]


def test_direction_and_length_have_their_own_gradients():
    """g v / |v|: the gradient of v is orthogonal to it, if centred too."""
    for method in (WN, CENTRED):
        conv = sn_mm.normalize_weights(nn.Conv1d(4, 3, 2).double(), method)
        conv(torch.randn(2, 4, 6).double()).square().sum().backward()
        own = conv.parametrizations.weight
        g, v = own.original0, own.original1
        assert g.shape == (3, 1, 1) and v.shape == (3, 4, 2)
        assert (v.grad * v).sum((1, 2)).abs().max() < 1e-10
        assert g.grad.abs().min() > 0
        if method == CENTRED:
            assert v.grad.sum((1, 2)).abs().max() < 1e-10
            assert conv.weight.sum((1, 2)).abs().max() < 1e-10


def test_standardization_is_for_what_a_norm_follows():
    """A layer that predicts would change for good."""
    model = sn_mm.normalize_weights(network(), WS)
    kinds = [type(m) for m in model]
    assert kinds[0] is ConvWS2d
    assert kinds[3] is nn.ConvTranspose2d and kinds[5] is nn.Conv2d
    backbone = sn_mm.normalize_weights(resnet(), WS)
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 20 and {type(m) for m in convs} == {ConvWS2d}


@PARAMETRIZED
def test_what_is_left_alone(method):
    model = network()
    model[0].weight.requires_grad_(False)
    model.append(nn.Conv2d(4, 4, 1))
    model.append(nn.Conv2d(4, 4, 1))
    model[7].weight = model[6].weight
    sn_mm.normalize_weights(model, method, exclude='5')
    changed = {
        i for i, m in enumerate(model) if hasattr(m, 'parametrizations')
    }
    assert changed == {3}
    with pytest.raises(ValueError, match='has no layer for .*frozen'):
        sn_mm.normalize_weights(model, method, include=['0'])
    sn_mm.normalize_weights(nn.Linear(3, 4), method, linear=True)


@PARAMETRIZED
def test_plain_files_and_its_own(method, tmp_path):
    model, other = network(), network()
    nn.init.normal_(other[0].weight)
    plain = other.state_dict()
    sn_mm.normalize_weights(model, method)
    model.load_state_dict(plain)
    want = of_formula(other[0].weight, method)
    assert relative_error(model.eval()[0].weight, want) < 1e-3
    torch.save(model.state_dict(), tmp_path / 'own.pth')
    again = sn_mm.normalize_weights(network(), method).eval()
    again.load_state_dict(torch.load(tmp_path / 'own.pth', weights_only=True))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), model(x))
    third = copy.deepcopy(again)
    third.load_state_dict(plain)
    assert torch.equal(third(x), model(x))


@PARAMETRIZED
def test_initialization_reaches_the_parameters_of_the_optimizer(method):
    model = sn_mm.normalize_weights(network(), method)
    held = dict(model.named_parameters())
    with plain_weights(model):
        assert 'weight' in model[0]._parameters
        nn.init.constant_(model[0].weight, 2)
        model[0].weight.data[:, 0] = 1
    assert dict(model.named_parameters()).keys() == held.keys()
    for name, p in model.named_parameters():
        assert p is held[name]
    weight = torch.full((8, 3, 3, 3), 2.0)
    weight[:, 0] = 1
    want = of_formula(weight, method)
    assert relative_error(model.eval()[0].weight, want) < 1e-3


@ON
def test_config_switch_beside_sn(method, tmp_path):
    """A detector by its config: start from a file, a step, its states."""
    cfg = faster_rcnn_config(dict(type='SN'), frozen_stages=-1).model
    plain = build('mmdet', copy.deepcopy(cfg))
    nn.init.normal_(plain.backbone.conv1.weight)
    path = tmp_path / 'backbone.pth'
    torch.save(plain.backbone.state_dict(), path)
    cfg.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path))
    cfg.update(type='NormalizeWeights', of='FasterRCNN', method=method)
    model = build('mmdet', cfg)  # which calls init_weights
    assert type(model).__name__ == 'FasterRCNN'
    assert any(isinstance(m, sn_mm.SN) for m in model.modules())
    model.backbone.eval()  # gives nothing back in the toolboxes
    weight = model.backbone.conv1.weight
    if method == WS:
        assert type(model.backbone.conv1) is ConvWS2d
        assert torch.equal(weight, plain.backbone.conv1.weight)
    else:
        want = of_formula(plain.backbone.conv1.weight, method)
        assert relative_error(weight, want) < 1e-3
    features = model.train().extract_feat(torch.randn(1, 3, 64, 64))
    sum(f.square().mean() for f in features).backward()
    for name, p in model.backbone.named_parameters():
        assert p.grad is not None, name


@ON
def test_in_the_runner(method, tmp_path):
    """Trains, and a second epoch goes on from the first one's file."""

    def train(folder, epochs, **options):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type='NormalizeWeights',
                of=Toy,
                method=method,
                norm_cfg=dict(type='SN', statistics=('in', 'ln')),
            )
        )
        runner = toy_runner(tmp_path / folder, model, epochs, **options)
        start = copy.deepcopy(model.state_dict())
        runner.train()
        return start, model.state_dict()

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _, want = train('whole', 2)
        start, _ = train('parts', 1)
        _, got = train('parts', 2, resume=True)
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, msg=name)
    key = 'conv.weight' if method == WS else 'conv.parametrizations.weight'
    moved = [n for n in start if n.startswith(key)]
    assert any(not torch.equal(got[n], start[n]) for n in moved)


@pytest.mark.parametrize(
    'arguments, text',
    [
        (('batch_norm',), "unknown method 'batch_norm'; choose from"),
        ((WN, 'backbone'), "include='backbone' fits no convolution"),
        ((WN, None, '9'), "exclude='9' fits no convolution"),
    ],
)
def test_errors_change_nothing(arguments, text):
    model = network()
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=text):
        sn_mm.normalize_weights(model, *arguments)
    assert list(model.state_dict()) == before
