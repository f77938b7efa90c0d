# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Networks of one design under other libraries' names."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError, read_bn_state
from sn_mm.checkpoints.leaves import leaves_of_file
from sn_mm.checkpoints.structure import align, surplus
from tests import other_names
from tests.public.networks import relative_error
from tests.utils import randomize

MOBILENET = dict(type='MobileNetV2', widen_factor=0.25, out_indices=(3, 7))
RESNET = dict(type='ResNet', depth=50, base_channels=8, stem_channels=8)
REGNET = dict(
    type='RegNet',
    arch=dict(w0=24, wa=24.48, wm=2.54, group_w=8, depth=14, bot_mul=1.0),
)
RENAMED = {
    'torchvision_mobilenet_v2': MOBILENET,
    'timm_mobilenet_v2': MOBILENET,
    'transformers_resnet': RESNET,
    'timm_resnet_d': dict(RESNET, type='ResNetV1d'),
    'torchvision_regnet': REGNET,
    'timm_regnet': REGNET,
}


def backbone(cfg, norm='BN', **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(cfg, norm_cfg=dict(type=norm), _scope_='mmdet', **kwargs)
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomize(module)
    model.eval()
    return model


def saved(path, state, **wrapped):
    torch.save(dict(state_dict=state, **wrapped) if wrapped else state, path)
    return path


@pytest.mark.parametrize('library', RENAMED)
@pytest.mark.parametrize('kind', ['SN', 'BN'])
def test_computes_what_the_bn_network_does(tmp_path, image, library, kind):
    cfg = RENAMED[library]
    original = backbone(cfg)
    state = getattr(other_names, library)(original.state_dict())
    state['fc.weight'] = torch.ones(10, 4)
    assert set(state) != set(original.state_dict())
    path = saved(tmp_path / 'file.pth', state)
    model = backbone(cfg, kind)
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    report = load_pretrained(model, f'bn2sn://{path}?ratios=bn')
    assert report.complete and len(report.said) == 1
    with torch.no_grad():
        for got, want in zip(model(image), original(image)):
            assert relative_error(got, want) < 1e-4


def test_a_state_for_a_model_with_bn(tmp_path):
    original = backbone(MOBILENET)
    state = other_names.torchvision_mobilenet_v2(original.state_dict())
    state = {f'module.{key}': value for key, value in state.items()}
    path = saved(tmp_path / 'file.pth', state, epoch=3)
    got = read_bn_state(backbone(MOBILENET), str(path))
    want = original.state_dict()
    assert set(got) == set(want)
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_one_stage_less_of_a_model_is_no_other_depth(tmp_path):
    state = other_names.transformers_resnet(backbone(RESNET).state_dict())
    path = saved(tmp_path / 'file.pth', state)
    model = backbone(
        RESNET,
        'SN',
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    )
    assert load_pretrained(model, f'bn2sn://{path}').complete


@pytest.mark.parametrize('rename', [True, False])
@pytest.mark.parametrize('depths', [(101, 50), (50, 101)])
def test_another_depth_is_refused(tmp_path, rename, depths):
    state = backbone(dict(RESNET, depth=depths[0])).state_dict()
    if rename:
        state = other_names.transformers_resnet(state)
    path = saved(tmp_path / 'file.pth', state)
    model = backbone(dict(RESNET, depth=depths[1]), 'SN')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r'file\.pth: '):
        load_pretrained(model, f'bn2sn://{path}')
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_another_design_is_refused(tmp_path):
    state = other_names.timm_mobilenet_v2(backbone(MOBILENET).state_dict())
    path = saved(tmp_path / 'file.pth', state)
    with pytest.raises(CheckpointError, match='no tensor of the file has a'):
        load_pretrained(backbone(RESNET, 'SN'), f'bn2sn://{path}')


def test_layers_told_by_role():
    """Of one shape, now first, now last."""
    conv = torch.zeros(4, 4, 1, 1)
    ours = leaves_of_file(
        {'0.conv.weight': conv, '0.downsample.0.weight': conv}
    )
    theirs = leaves_of_file({'a.shortcut.weight': conv, 'a.c.weight': conv})
    assert align(ours, theirs) == {
        '0.conv': 'a.c',
        '0.downsample.0': 'a.shortcut',
    }


def test_a_scale_is_no_layer_norm():
    c = torch.zeros(4)
    ours = leaves_of_file({'n.weight': c, 'n.bias': c, 's.gamma': c})
    theirs = leaves_of_file({'x.scale': c, 'y.weight': c, 'y.bias': c})
    assert align(ours, theirs) == {'n': 'y', 's': 'x'}


def test_parts_of_their_own_are_no_surplus():
    conv = torch.zeros(4, 4, 1, 1)
    names = ['a.0', 'aux.0', 'a.1', 'fc']
    leaves = leaves_of_file({f'{n}.weight': conv for n in names})
    assert surplus(leaves, {'a.0', 'a.1'}) == []
    assert surplus(leaves, {'a.0'}) == ['a.1']
    assert surplus(leaves, {'a.1'}) == ['a.0']
