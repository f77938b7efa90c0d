# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where configs start from, and that they start from such files."""

import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import get_external_models

from tests import families
from tests.public import networks

from . import shrunk

OWN = re.compile(r'checkpoints/(resnet(?:50|101)_[\w-]+)_in1k\.pth')


@pytest.fixture(scope='module')
def entries():
    return families.entries()


def test_every_start_is_known(entries):
    external = get_external_models()
    for entry in entries:
        start = entry.start.partition('bn2sn://')[2] or entry.start
        scheme, _, name = start.partition('://')
        if scheme == 'open-mmlab':
            assert name in external, entry.config
        elif scheme == 'torchvision':
            assert name in ('resnet50', 'resnet101'), entry.config
        elif entry.name.endswith('_transplanted_1x_coco'):
            # what the command in the config makes
            text = (shrunk.CONFIGS / f'{entry.config}.py').read_text()
            assert f'--out {start}' in text
        elif start.startswith('checkpoints/'):
            # what the pretraining config of that name leaves
            name = f'{OWN.fullmatch(start)[1]}_in1k.py'
            assert (shrunk.CONFIGS / 'pretrain' / name).is_file(), name
        else:
            assert scheme == 'https' or start == 'scratch', entry.config


def test_starts_are_those_of_the_names(entries):
    """'sn-8x4' in a name is SN from (8, 4); the detectors' SN has (8, 2)."""
    for entry in entries:
        if entry.folder == 'swap_in':
            continue
        depth = 101 if '_r101' in entry.name else 50
        own = OWN.fullmatch(entry.start)
        batch = re.search(r'_(?:sync)?sn-8x(\d+)_', entry.name)
        if '-scratch' in entry.name:
            assert entry.start == 'scratch', entry.config
        elif batch:
            assert own[1] == f'resnet{depth}_sn_8xb{batch[1]}', entry.config
        elif re.search(r'_(2fc_)?sn-nobn(-all)?_', entry.name):
            assert own[1] == 'resnet50_sn-nobn_8xb1', entry.config
        elif re.search(r'_(2fc_)?sn(-all)?_', entry.name):
            size = '8xb2' if depth == 50 else '8xb32'
            assert own[1] == f'resnet{depth}_sn_{size}', entry.config
        elif re.search(r'_gn-all_|_gn-backbone_|-d8_gn_', entry.name):
            name = f'open-mmlab://detectron/resnet{depth}_gn'
            assert entry.start == name, entry.config
        else:  # BN in the backbone
            assert entry.start == f'torchvision://resnet{depth}', entry.config


@pytest.mark.parametrize('path', shrunk.paths('swap_in'), ids=lambda p: p.stem)
def test_a_start_from_bn_trains_whole_and_learns_its_ratios(path):
    cfg = shrunk.load(path)
    assert cfg.model.backbone.get('frozen_stages', -1) == -1
    paramwise = cfg.optim_wrapper.paramwise_cfg
    assert paramwise.norm_decay_mult == 0 and paramwise.ratio_lr_mult == 20
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(shrunk.without_pretrained(cfg).model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {
        p: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    base = cfg.optim_wrapper.optimizer.lr
    ratios = [
        p
        for name, p in model.named_parameters()
        if name.endswith(('mean_weight', 'var_weight'))
    ]
    assert ratios
    assert {rates[p] for p in ratios} == {(base * 20, 0)}


# -- files that ImageNet pretraining leaves --
@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """Folder of checkpoints laid out as mmpretrain's classifiers."""
    from mmdet.models.backbones import ResNet

    folder = tmp_path_factory.mktemp('checkpoints')
    for name, statistics in (
        ('resnet50_sn_8xb2', ('in', 'ln', 'bn')),
        ('resnet50_sn-nobn_8xb1', ('in', 'ln')),
    ):
        backbone = ResNet(50, norm_cfg=dict(type='SN', statistics=statistics))
        gen = torch.Generator().manual_seed(0)
        state = {
            f'backbone.{key}': torch.rand(value.shape, generator=gen)
            if value.is_floating_point()
            else value
            for key, value in backbone.state_dict().items()
        }
        state['head.fc.weight'] = torch.zeros(1000, 2048)
        state['head.fc.bias'] = torch.zeros(1000)
        content = dict(meta=dict(epoch=100), state_dict=state)
        torch.save(content, folder / f'{name}_in1k.pth')
    for batch in (4, 32):
        (folder / f'resnet50_sn_8xb{batch}_in1k.pth').symlink_to(
            folder / 'resnet50_sn_8xb2_in1k.pth'
        )
    return folder


def initialized(cfg):
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    model.init_weights()
    return model


@pytest.mark.parametrize(
    'name',
    [
        'faster_rcnn/faster-rcnn_r50_c4_sn-all_4xb3-120k_coco',
        'faster_rcnn/faster-rcnn_r50_fpn_sn-all_1x_coco',
        'faster_rcnn/faster-rcnn_r50_fpn_2fc_sn-nobn_2x_coco',
        'mask_rcnn/mask-rcnn_r50_fpn_sn-all_2x_coco',
        'deeplabv3/deeplabv3_r50-d8_sn-8x4_8xb2-100k_ade20k-450x450',
        'pspnet/pspnet_r50-d8_syncsn-8x32_8xb2-130k_cityscapes-713x713',
    ],
)
def test_starts_from_pretraining_as_it_is(name, pretrained, monkeypatch):
    monkeypatch.setenv('SN_MM_CHECKPOINTS', str(pretrained))
    shrunk._parsed.cache_clear()
    cfg = shrunk.load(shrunk.CONFIGS / f'{name}.py')
    shrunk._parsed.cache_clear()
    file = cfg.model.backbone.init_cfg.checkpoint
    state = torch.load(file, weights_only=True)['state_dict']
    model = initialized(cfg)
    own = dict(model.backbone.state_dict())
    if '_c4_' in name:
        own.update(model.roi_head.shared_head.state_dict())
    assert {f'backbone.{key}' for key in own} | {
        'head.fc.weight',
        'head.fc.bias',
    } == set(state)
    for key, value in own.items():
        assert value.equal(state[f'backbone.{key}']), key


@pytest.mark.parametrize(
    'name, parts',
    [
        ('faster-rcnn_r50_fpn_sn-all_1x_coco', ('backbone',)),
        (
            'faster-rcnn_r50_c4_sn-all_4xb3-120k_coco',
            ('backbone', 'roi_head.shared_head'),
        ),
    ],
)
def test_starts_from_a_released_file(name, parts, tmp_path):
    """By the settings that configs/faster_rcnn/README.md gives."""
    layout = 'imagenet_resnetv1sn50'
    network = networks.original(layout)
    file = networks.save(network, layout, tmp_path / 'file.pth')
    cfg = shrunk.load(shrunk.CONFIGS / f'faster_rcnn/{name}.py')
    for part in parts:
        cfg.merge_from_dict(
            {
                f'model.{part}.init_cfg.checkpoint': f'sn://{file}',
                f'model.{part}.init_cfg.prefix': None,
                f'model.{part}.norm_cfg.unbiased': True,
            }
        )
    model, public, own = initialized(cfg), network.state_dict(), {}
    for part in parts:
        own.update(model.get_submodule(part).state_dict())
    convs = [key for key in own if 'conv' in key]
    assert len(convs) == 49
    assert all(own[key].equal(public[key]) for key in convs)
    ratios = [key for key in own if key.endswith('mean_weight')]
    assert len(ratios) == 53
    assert all(own[key].equal(public[key]) for key in ratios)
