# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Wrappers, several networks in one file, and which of them is taken."""

from __future__ import annotations

import argparse
import copy

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.networks import says_ema
from tests.builders import BN_CFG, SN_CFG, resnet
from tests.utils import randomize


def bn_network(seed=0):
    model = resnet(norm_cfg=BN_CFG)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            randomize(module)
    return model


def under(front, state):
    return {f'{front}{key}': value for key, value in state.items()}


def plain(a, b):
    return a


def moco(a, b):
    return dict(
        epoch=200,
        arch='resnet50',
        state_dict={
            **under('module.encoder_k.', b),
            **under('module.encoder_q.', a),
            'module.encoder_q.fc.0.weight': torch.ones(2, 2),
            'module.queue': torch.ones(128, 16),
            'module.queue_ptr': torch.zeros(1, dtype=torch.long),
        },
        optimizer=dict(state={0: dict(momentum_buffer=a['conv1.weight'])}),
    )


def moco_v3(a, b):
    return dict(
        state_dict={
            **under('module.momentum_encoder.', b),
            **under('module.base_encoder.', a),
            'module.predictor.0.weight': torch.ones(4, 4),
        }
    )


def dino(a, b):
    args = argparse.Namespace(arch='resnet50', lr=0.1)
    return dict(
        student=under('module.backbone.', b),
        teacher=under('backbone.', a),
        args=args,
        epoch=3,
        dino_loss=dict(center=torch.zeros(1, 8)),
    )


def swav(a, b):
    return {
        **under('module.', a),
        'module.projection_head.0.weight': torch.ones(4, 64),
        'module.projection_head.1.running_mean': torch.zeros(4),
        'module.projection_head.1.running_var': torch.ones(4),
        'module.prototypes.weight': torch.ones(30, 4),
    }


def ema_beside(a, b):
    return dict(state_dict=a, state_dict_ema=b)


def ema_said(a, b):
    args = argparse.Namespace(model_ema=True, model_ema_decay=0.99)
    return dict(model=b, model_ema=a, args=args)


def ema_hook(a, b):
    """mmengine's EMAHook swaps: state_dict has the average already."""
    return dict(state_dict=a, ema_state_dict=under('module.', b), meta={})


def lightning(a, b):
    return {
        'state_dict': {**under('model.', a), 'loss.weight': torch.ones(3)},
        'pytorch-lightning_version': '2.0',
        'hyper_parameters': {'lr': 0.1},
        'callbacks': {},
    }


def mmpretrain_moco(a, b):
    return dict(
        state_dict={
            **under('backbone.', a),
            **under('momentum_encoder.module.0.', b),
        }
    )


LAYOUTS = [
    plain,
    lambda a, b: dict(state_dict=a),
    lambda a, b: under('module.', a),
    lambda a, b: under('_orig_mod.', a),
    lambda a, b: dict(model=under('module._orig_mod.', a)),
    lambda a, b: under('_orig_mod.module.', a),
    lambda a, b: under('backbone._orig_mod.', a),
    lambda a, b: dict(net=under('encoder.resnet.', a)),
    lambda a, b: dict(a=dict(b=dict(c=under('d.e.', a)))),
    lightning,
    moco,
    moco_v3,
    dino,
    swav,
    ema_beside,
    ema_said,
    ema_hook,
    mmpretrain_moco,
]


def check(model, network):
    want = network.state_dict()
    for key, value in model.state_dict().items():
        if not key.endswith(('mean_weight', 'var_weight')):
            assert torch.equal(value, want[key.replace('sn', 'bn')]), key


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, layout, zipped):
    a, b = bn_network(1), bn_network(2)
    path = tmp_path / 'file.ckpt'
    content = layout(a.state_dict(), b.state_dict())
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    model = resnet(norm_cfg=SN_CFG)
    load_pretrained(model, f'bn2sn://{path}')
    check(model, a)


@pytest.mark.parametrize(
    'layout, part',
    [
        (moco, 'encoder_k'),
        (moco, 'module.encoder_k'),
        (moco_v3, 'momentum_encoder'),
        (dino, 'student'),
        (ema_beside, 'state_dict_ema'),
        (ema_said, 'model'),
        (mmpretrain_moco, 'momentum_encoder'),
    ],
)
def test_another_part(tmp_path, layout, part):
    a, b = bn_network(1), bn_network(2)
    path = tmp_path / 'file.pth'
    torch.save(layout(a.state_dict(), b.state_dict()), path)
    model = resnet(norm_cfg=SN_CFG)
    load_pretrained(model, f'bn2sn://{path}?part={part}')
    check(model, b)


def test_what_is_taken_of_several_is_said(tmp_path):
    states = bn_network(1).state_dict(), bn_network(2).state_dict()
    path = tmp_path / 'file.pth'
    torch.save(moco(*states), path)
    report = load_pretrained(resnet(norm_cfg=SN_CFG), f'bn2sn://{path}')
    assert len(report.said) == 1
    assert 'encoder_q is taken' in report.said[0]
    assert 'encoder_k' in report.said[0] and '?part=' in report.said[0]


def test_two_of_a_kind_have_to_be_chosen(tmp_path):
    path = tmp_path / 'file.pth'
    states = bn_network(1).state_dict(), bn_network(2).state_dict()
    torch.save(dict(left=states[0], right=states[1]), path)
    model = resnet(norm_cfg=SN_CFG)
    with pytest.raises(CheckpointError, match=r'left, right.*\?part=left'):
        load_pretrained(model, f'bn2sn://{path}')
    with pytest.raises(CheckpointError, match="part='middle'"):
        load_pretrained(model, f'bn2sn://{path}?part=middle')
    load_pretrained(model, f'bn2sn://{path}?part=right')
    assert torch.equal(model.conv1.weight, states[1]['conv1.weight'])


def test_without_a_model_wrappers_are_taken_off(tmp_path):
    a, b = bn_network(1).state_dict(), bn_network(2).state_dict()
    path = tmp_path / 'file.pth'
    for layout in (plain, moco, dino, lightning, ema_hook, swav):
        torch.save(layout(a, b), path)
        found = CheckpointLoader.load_checkpoint(f'bn2sn://{path}')
        state = found['state_dict']
        front = 'backbone.' if layout is dino else ''
        assert torch.equal(state[f'{front}conv1.weight'], a['conv1.weight'])
        assert f'{front}layer1.0.sn1.mean_weight' in state


def test_half_precision(tmp_path):
    a = bn_network(1)
    path = tmp_path / 'file.pth'
    torch.save(copy.deepcopy(a).half().state_dict(), path)
    model = resnet(norm_cfg=SN_CFG)
    load_pretrained(model, f'bn2sn://{path}')
    assert model.sn1.running_var.dtype == torch.float32
    assert torch.equal(model.conv1.weight, a.conv1.weight.half().float())


def test_settings_that_say_ema():
    assert says_ema(dict(hyper_parameters=dict(use_ema=True)))
    assert not says_ema(dict(hyper_parameters=dict(use_ema=False)))
    assert not says_ema(dict(args=dict(ema_decay=0.9)))
    assert not says_ema([])
