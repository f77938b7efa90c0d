# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which public files a state dict could be written as."""

from __future__ import annotations

import pytest
import torch

from sn_mm.checkpoints.infer import infer_parts
from sn_mm.checkpoints.layouts import Layout
from sn_mm.utils.errors import CheckpointError

RESNET = dict(prefix='', depth=18, ratios=3, sparse=False, fc=0)
DECODER = dict(ratios=3, dim=4, inputs=[512, 256], num_classes=2)


def targets(kind, params):
    return {
        e.target: torch.empty(e.op.shape(e.shape), device='meta')
        for e in Layout(kind, params).entries
    }


def kinds(parts):
    return [(p['kind'], p['style']) for p in parts]


def test_a_backbone_alone():
    state = {
        k.removeprefix('backbone.'): v
        for k, v in targets('resnet', RESNET).items()
    }
    (part,) = infer_parts(state)
    assert (part['kind'], part['style']) == ('resnet', 'backbone')
    assert part['params'] == RESNET
    assert part['kept'] == part['plain'] == {}


def test_a_model_and_a_segmentor():
    state = targets('resnet', RESNET)
    assert kinds(infer_parts(state)) == [('resnet', 'model')]
    state.update(targets('seg-decoder', DECODER))
    encoder, decoder = infer_parts(state)
    assert kinds([encoder, decoder]) == [
        ('resnet', 'model'),
        ('seg-decoder', 'model'),
    ]
    assert decoder['params'] == DECODER


def test_a_detector():
    params = dict(
        fpn=True,
        depth=18,
        ratios=2,
        dim=8,
        anchors=3,
        num_classes=5,
        fc_dim=6,
        box_convs=0,
        mask_convs=2,
        roi_size=3,
    )
    (part,) = infer_parts(targets('detectron', params))
    assert part['kind'] == 'detectron' and part['wrapper'] == 'model'
    assert part['params'] == params


def test_other_networks():
    for name in ('bn1.weight', 'backbone.bn1.weight'):
        with pytest.raises(CheckpointError, match=f'no ResNet.*: {name}'):
            infer_parts({name: torch.empty(1)})
