# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Keys and sizes of a public ResNet; every released file: test_layouts."""

import pytest

from sn_mm.checkpoints.entries import NormKind
from sn_mm.checkpoints.resnet import (
    DEPTHS,
    STAGES,
    classifier,
    infer_depth,
    norm_kind,
    resnet_params,
    stage,
    stem,
)
from sn_mm.utils.errors import CheckpointError

SN = NormKind()
NAMES = {i: f'layer{i}' for i in STAGES}


def shapes_of(depth, kind=SN, prefix='', fc=0):
    entries = list(stem(prefix, kind))
    for i in STAGES:
        name = f'{prefix}layer{i}'
        entries += stage(name, f'backbone.layer{i}', i, depth, kind)
    if fc:
        entries += classifier(f'{prefix}fc', fc, depth)
    return {e.public: e.shape for e in entries}


@pytest.mark.parametrize('depth', DEPTHS)
def test_depths_are_told_by_their_blocks(depth):
    assert infer_depth(shapes_of(depth), NAMES) == depth


def test_widths_and_shortcuts():
    basic, bottleneck = shapes_of(18), shapes_of(50)
    assert 'layer1.0.downsample.0.weight' not in basic
    assert basic['layer2.0.downsample.0.weight'] == (128, 64, 1, 1)
    assert bottleneck['layer1.0.downsample.0.weight'] == (256, 64, 1, 1)
    assert bottleneck['layer4.0.conv1.weight'] == (512, 1024, 1, 1)
    assert bottleneck['layer4.2.conv3.weight'] == (2048, 512, 1, 1)


def test_sizes_that_a_file_tells():
    shapes = shapes_of(50, NormKind(2, sparse=True), 'module.', fc=1000)
    assert resnet_params(shapes, 'module.') == dict(
        prefix='module.', depth=50, ratios=2, sparse=True, fc=1000
    )
    assert resnet_params(shapes_of(18), '')['fc'] == 0


def test_files_of_other_networks():
    shapes = shapes_of(18)
    missing = {k: v for k, v in shapes.items() if not k.startswith('layer4')}
    with pytest.raises(CheckpointError, match=r'per stage \(2, 2, 2, 0\)'):
        infer_depth(missing, NAMES)
    with pytest.raises(CheckpointError, match='sn1.mean_weight is missing'):
        norm_kind({}, 'sn1')
    with pytest.raises(CheckpointError, match=r'has shape \(4,\)'):
        norm_kind({'sn1.mean_weight': (4,)}, 'sn1')
