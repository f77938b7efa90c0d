# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""norm_eval, frozen_stages, requires_grad and zero_init_residual."""

import copy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from tests.builders import (
    BN_CFG,
    SN_CFG,
    build,
    flatten,
    randomize_norms,
    reference_copy,
    resnet,
    switch_norms,
)

BACKBONES = {
    'mmdet ResNet': ('mmdet', dict(type='ResNet', depth=18)),
    'mmdet MobileNetV2': ('mmdet', dict(type='MobileNetV2')),
    'mmseg ResNet': ('mmseg', dict(type='ResNet', depth=18)),
    'mmseg MobileNetV2': ('mmseg', dict(type='MobileNetV2')),
    'mmseg UNet': ('mmseg', dict(type='UNet', base_channels=8)),
}


def step(model, x):
    """One SGD step, with momentum and weight decay, of a backbone."""
    optimizer = torch.optim.SGD(
        model.parameters(), 0.1, momentum=0.9, weight_decay=0.1
    )
    for _ in range(2):
        optimizer.zero_grad()
        sum(o.square().mean() for o in flatten(model(x))).backward()
        optimizer.step()


def changed(before, after):
    """Names of what is no longer equal."""
    return {n for n in before if not torch.equal(before[n], after[n])}


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize(
    'norm_cfg,kind,training',
    [(SN_CFG, _InstanceNorm, True), (BN_CFG, _BatchNorm, False)],
    ids=['SN', 'BN'],
)
def test_norm_eval_leaves_sn_in_training(name, norm_cfg, kind, training):
    scope, cfg = BACKBONES[name]
    model = build(scope, dict(cfg, norm_cfg=norm_cfg, norm_eval=True))
    model.eval()
    model.train()
    norms = [m for m in model.modules() if isinstance(m, kind)]
    assert norms and all(m.training is training for m in norms)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_norm_eval_sn_trains_as_without(scope):
    models = [randomize_norms(resnet(scope, norm_eval=e)) for e in (0, 1)]
    x = torch.randn(2, 3, 40, 56)
    for model in models:
        model.train()
        step(model, x)
    states = [m.state_dict() for m in models]
    assert not changed(*states)
    assert int(states[0]['layer4.1.sn2.num_batches_tracked']) == 2


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('norm', ['SN', 'SyncSN'])
def test_frozen_stages_freeze_sn_whole(scope, norm):
    model = randomize_norms(
        resnet(scope, dict(type=norm), frozen_stages=2, norm_eval=False)
    )
    model.train()
    before = copy.deepcopy(model.state_dict())
    step(model, torch.randn(2, 3, 40, 56))
    moved = changed(before, model.state_dict())
    frozen = ('conv1.', 'sn1.', 'layer1.', 'layer2.')
    assert {'sn1.mean_weight', 'layer2.0.sn1.running_var'} <= set(before)
    assert moved == {n for n in before if not n.startswith(frozen)}
    for name, layer in switch_norms(model).items():
        is_frozen = name.startswith(('sn1', 'layer1', 'layer2'))
        assert layer.training is not is_frozen
        assert all(
            p.requires_grad is not is_frozen for p in layer.parameters()
        )


def test_frozen_stages_normalize_with_running_statistics():
    model = randomize_norms(resnet(frozen_stages=2))
    model.train()
    x = torch.randn(2, 3, 40, 56)
    got = model(x)
    want = reference_copy(model)(x.double())
    for y, y_want in zip(got, want):
        torch.testing.assert_close(y.double(), y_want, rtol=1e-3, atol=1e-4)


def test_requires_grad_false_freezes_parameters_only():
    """As for BN: running statistics follow until evaluation or bn_eval."""
    model = randomize_norms(resnet(norm_cfg=dict(SN_CFG, requires_grad=False)))
    model.train()
    before = copy.deepcopy(model.state_dict())
    step(model, torch.randn(2, 3, 40, 56))
    moved = changed(before, model.state_dict())
    buffers = {n for n, _ in model.named_buffers()}
    convs = {n for n in before if 'conv' in n or 'downsample.0' in n}
    assert moved == buffers | convs


def test_bn_eval_freezes_the_bn_part_only():
    model = randomize_norms(resnet(norm_cfg=dict(type='SN', bn_eval=True)))
    model.train()
    before = copy.deepcopy(model.state_dict())
    step(model, torch.randn(2, 3, 40, 56))
    moved = changed(before, model.state_dict())
    assert moved == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('depth,last', [(18, 'sn2'), (50, 'sn3')])
def test_zero_init_residual(scope, depth, last):
    model = resnet(scope, depth=depth, init_cfg=None, zero_init_residual=True)
    model.train()
    for name, layer in switch_norms(model).items():
        want = 0.0 if name.startswith('layer') and last in name else 1.0
        assert (layer.weight == want).all() and not layer.bias.any(), name
        assert (layer.mean_weight == 1).all(), name
        assert (layer.var_weight == 1).all(), name
    block = model.layer1[-1]
    x = torch.rand(2, block.conv1.in_channels, 6, 6)
    assert torch.equal(block(x), x)
    step(model, torch.randn(2, 3, 40, 56))
    for name, p in model.named_parameters():
        assert torch.isfinite(p).all(), name
    layer = getattr(block, last)
    assert layer.weight.any()
    assert (layer.mean_weight != 1).any()
