# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where IBN-Nets have their norms, and what their blocks compute.

Released weights: test_checkpoints/test_ibn_net. Configs: tests/integration.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sn_mm.models.ibn_resnet as module
from sn_mm.layers import IBN, SyncIBN
from tests.builders import build

TINY = dict(depth=18, base_channels=8, stem_channels=8)
BN = dict(type='BN', requires_grad=True)


def network(scope='mmdet', kind='IBNResNet', **options):
    cfg = dict(type=kind, norm_cfg=BN, init_cfg=None, **TINY)
    return build(scope, {**cfg, **options})


def names_of(model, kind):
    return [n for n, m in model.named_modules() if isinstance(m, kind)]


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_variant_a(scope):
    model = network(scope)
    found = names_of(model, IBN)
    assert found == [f'layer{i}.{k}.bn1' for i in (1, 2, 3) for k in (0, 1)]
    layer = model.layer2[0].bn1
    assert layer.is_placed
    assert layer.IN.num_features == layer.BN.num_features == 8
    assert len(model(torch.randn(2, 3, 32, 32))) == 4


def test_variant_b():
    model = network(variant='b')
    assert isinstance(model.bn1, nn.InstanceNorm2d) and model.bn1.affine
    assert names_of(model, IBN) == []
    norms = [n for n in names_of(model, nn.InstanceNorm2d) if n != 'bn1']
    assert norms == ['layer1.1.IN', 'layer2.1.IN']
    block, x = model.layer1[1].eval(), torch.randn(2, 8, 6, 5)
    with torch.no_grad():
        inner = block.bn1(block.conv1(x)).relu()
        total = block.bn2(block.conv2(inner)) + x
        want = nn.functional.instance_norm(total).relu()
        torch.testing.assert_close(block(x), want)


def test_squeeze_and_excitation_before_the_sum():
    model = network(se_reduction=4)
    model.eval()
    block, x = model.layer2[1], torch.randn(2, 16, 6, 5)
    with torch.no_grad():
        inner = block.bn1(block.conv1(x)).relu()
        last = block.bn2(block.conv2(inner))
        hidden = (last.mean((2, 3)) @ block.se.fc[0].weight.T).relu()
        scales = (hidden @ block.se.fc[2].weight.T).sigmoid()
        want = (last * scales[:, :, None, None] + x).relu()
        torch.testing.assert_close(block(x), want)
    assert all('.se.' not in k for k in network().state_dict())


def test_recomputing_changes_no_gradient():
    grads = []
    for with_cp in (False, True):
        model = network(se_reduction=4, with_cp=with_cp)
        x = torch.randn(
            2, 3, 32, 32, generator=torch.Generator().manual_seed(0)
        )
        sum(y.square().mean() for y in model(x)).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_frozen_stages_freeze_what_is_new_as_well():
    model = network(variant='b', frozen_stages=1, se_reduction=4)
    model.train()
    for part in (model.bn1, model.layer1):
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(m.training for m in part.modules())
    assert all(p.requires_grad for p in model.layer2.parameters())


def test_norm_cfg_of_ibn_beside_others():
    given = dict(type='SyncBN', eps=1e-3, requires_grad=False, other=1)
    assert module.ibn_cfg(given, ratio=0.3) == dict(
        type='SyncIBN', eps=1e-3, requires_grad=False, ratio=0.3
    )
    assert isinstance(module.place_ibn(8, given), SyncIBN)
    assert module.ibn_cfg(BN)['type'] == 'IBN'


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(variant='c'), "unknown variant 'c'"),
        (dict(variant='b', deep_stem=True), 'leave deep_stem out'),
        (dict(ratio=0.01), 'leaves 0 for IN'),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        network(**options)
