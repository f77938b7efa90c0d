# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""IBN-Net on DenseNet; released weights: test_checkpoints/test_ibn_net."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm.layers import IBN
from sn_mm.models.ibn_densenet import DenseLayer, IBNDenseNet

BN = dict(type='BN', requires_grad=True)


@pytest.fixture(scope='module')
def plain():
    torch.manual_seed(0)
    return IBNDenseNet(init_cfg=None)


def test_outputs_and_their_strides(plain):
    plain.eval()
    with torch.no_grad():
        outputs = plain(torch.randn(1, 3, 64, 64))
    shapes = [tuple(y.shape[1:]) for y in outputs]
    assert shapes == [
        (256, 16, 16),
        (512, 8, 8),
        (1024, 4, 4),
        (1024, 2, 2),
    ]
    assert (outputs[3] >= 0).all() and (outputs[2] < 0).any()


def test_ibn_is_the_first_norm_of_every_third_layer(plain):
    found = [n for n, m in plain.named_modules() if isinstance(m, IBN)]
    assert found == [
        f'features.denseblock{i}.denselayer{k}.norm1'
        for i, layers in ((1, 6), (2, 12), (3, 24))
        for k in range(1, layers + 1, 3)
    ]
    layer = plain.get_submodule(found[0])  # of 64 channels
    assert (layer.BN.num_features, layer.IN.num_features) == (38, 26)
    assert layer.is_placed and not layer.instance_first


@pytest.mark.parametrize('with_ibn', [False, True])
def test_a_layer_appends_what_it_makes(with_ibn):
    torch.manual_seed(0)
    layer = DenseLayer(10, BN, with_ibn, False)
    again = DenseLayer(10, BN, with_ibn, True)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(2, 10, 6, 5)
    results = []
    for module in (layer, again):
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        assert torch.equal(y[:, :10], x) and y.shape[1] == 10 + 32
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad, module.conv1.weight.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)
    hidden = layer.conv1(layer.norm1(x).relu())
    want = layer.conv2(layer.norm2(hidden).relu())
    torch.testing.assert_close(results[0][0][:, 10:], want)


def test_freezing_and_norm_eval():
    model = IBNDenseNet(
        init_cfg=None, frozen_stages=1, norm_eval=True, out_indices=(1,)
    )
    model.train()
    parts = model.features
    for part in (parts.conv0, parts.denseblock1, parts.transition1):
        assert not any(p.requires_grad for p in part.parameters())
    assert all(p.requires_grad for p in parts.denseblock2.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert parts.denseblock2.training


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(depth=161), 'unknown depth 161'),
        (dict(out_indices=(4,)), 'must be from 0 to 3'),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        IBNDenseNet(**options)
