# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What in a model contradicts a public checkpoint, one thing at a time.

That the released configs contradict nothing, and messages for whole models,
is in tests/integration/checkpoints.
"""

from __future__ import annotations

import pytest
from torch import nn

from sn_mm.checkpoints.contradictions import (
    component,
    contradictions,
    norm_cfg,
)
from sn_mm.checkpoints.convert import backbone_name
from sn_mm.checkpoints.layouts import Layout
from tests.builders import build

RATIOS = dict(prefix='', ratios=3, sparse=False, fc=1000)
RESNET18 = Layout('resnet', dict(RATIOS, depth=18))
RESNET50 = Layout('resnet', dict(RATIOS, depth=50))
UNBIASED = dict(type='SN', unbiased=True)


def resnet(depth=18, norm=UNBIASED, kind='ResNet', **options):
    cfg = dict(type=kind, depth=depth, norm_cfg=dict(norm), init_cfg=None)
    return build('mmdet', {**cfg, **options})


@pytest.mark.parametrize(
    'name, want',
    [
        ('roi_head.bbox_head.fc_cls.weight', 'model.roi_head.bbox_head'),
        ('backbone.layer1.0.sn1', 'model.backbone'),
        ('auxiliary_head.conv_seg', 'model.auxiliary_head'),
        ('layer1.0.sn1.weight', 'the model'),
        ('roi_head', 'the model'),
    ],
)
def test_components_as_configs_call_them(name, want):
    assert component(name) == want


def test_the_norm_cfg_that_a_file_wants():
    assert norm_cfg(RESNET18) == "dict(type='SN', unbiased=True)"
    two = Layout('resnet', dict(RATIOS, depth=18, ratios=2, sparse=True))
    assert norm_cfg(two) == (
        "dict(type='SSN', unbiased=True, statistics=('in', 'ln'))"
    )


def test_a_network_that_fits():
    assert contradictions(resnet(), RESNET18, backbone_name) == []


@pytest.mark.parametrize(
    'options, layout, words',
    [
        (dict(norm=dict(type='SN')), RESNET18, ['unbiased=False']),
        (dict(norm=dict(UNBIASED, eps=1e-3)), RESNET18, ['eps=0.001']),
        (dict(norm=dict(type='BN')), RESNET18, ['the model has no SN']),
        (dict(norm=dict(type='EN')), RESNET18, ['the model has no SN']),
        (dict(norm=dict(type='DN')), RESNET18, ['the model has no SN']),
        (
            dict(norm=dict(UNBIASED, statistics=('in', 'ln'))),
            RESNET18,
            ["the file has 3 ratios ('in', 'ln', 'bn')"],
        ),
        (
            dict(norm=dict(UNBIASED, type='SSN')),
            RESNET18,
            ["file's norm is SN, the model has SSN"],
        ),
        (
            dict(depth=34),
            RESNET18,
            [f'with 2 basic blocks in stage {i}' for i in range(1, 5)],
        ),
        (
            dict(depth=50, style='caffe'),
            RESNET50,
            [f'layer{i} has it in the 1x1' for i in (2, 3, 4)],
        ),
        (dict(deep_stem=True), RESNET18, ['has a deep stem']),
        (
            dict(avg_down=True),
            RESNET18,
            [f'layer{i} pools its shortcuts' for i in (2, 3, 4)],
        ),
    ],
)
def test_each_contradiction_once(options, layout, words):
    found = contradictions(resnet(**options), layout, backbone_name)
    assert len(found) == len(words), found
    for text, word in zip(found, words):
        assert word in text and ': set ' in text


def test_the_stem_of_sparse_networks_pools_without_padding():
    model = resnet(norm=dict(UNBIASED, type='SSN'))
    sparse = Layout('resnet', dict(RATIOS, depth=18, sparse=True))
    (text,) = contradictions(model, sparse, backbone_name)
    assert 'padding=0' in text and "type='SSNResNet'" in text
    model.maxpool = nn.MaxPool2d(3, 2, 0)
    assert contradictions(model, sparse, backbone_name) == []
