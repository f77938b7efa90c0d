# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sizes of detectors out of either side's shapes.

Every key of the released files is in test_layouts.
"""

from __future__ import annotations

import pytest

from sn_mm.checkpoints import detectron
from sn_mm.utils.errors import CheckpointError
from tests.public.networks import public_layouts

RELEASED = {
    'detectron_faster_rcnn_r50_fpn_sn': dict(fpn=True, mask_convs=0),
    'detectron_mask_rcnn_r50_fpn_sn_nobn': dict(
        fpn=True, mask_convs=4, ratios=2
    ),
    'detectron_faster_rcnn_r50_c4_sn': dict(fpn=False, box_convs=0),
}


def shapes_of(name):
    return {k: tuple(v) for k, v in public_layouts()[name]['shapes'].items()}


@pytest.mark.parametrize('name', RELEASED)
def test_sizes_are_the_same_from_both_names(name):
    shapes = shapes_of(name)
    assert detectron.is_detector(shapes)
    params = detectron.detector_params(shapes)
    assert params['depth'] == 50 and params['num_classes'] == 80
    for key, value in RELEASED[name].items():
        assert params[key] == value
    ours = {
        e.target: e.op.shape(e.shape)
        for e in detectron.detector_entries(params)
    }
    assert detectron.params_of_detector(ours) == params


def test_background_rows_go_to_their_places():
    """Last of mmdet's class scores, and nowhere among its boxes."""
    params = detectron.detector_params(
        shapes_of('detectron_mask_rcnn_r50_fpn_sn_nobn')
    )
    entries = {e.public: e for e in detectron.detector_entries(params)}
    for key, kind, rows in (
        ('Box_Outs.cls_score.weight', 'roll', 0),
        ('Box_Outs.bbox_pred.bias', 'tail', 4),
        ('Mask_Outs.classify.weight', 'tail', 1),
    ):
        op = entries[key].op
        assert (op.kind, op.rows) == (kind, rows)


def test_the_pyramid_runs_the_other_way():
    params = detectron.detector_params(
        shapes_of('detectron_faster_rcnn_r50_fpn_sn')
    )
    target = {e.public: e.target for e in detectron.detector_entries(params)}
    body = 'Conv_Body'
    lateral, output = 'neck.lateral_convs', 'neck.fpn_convs'
    assert target[f'{body}.conv_top.0.weight'] == f'{lateral}.3.conv.weight'
    key = f'{body}.topdown_lateral_modules.2.conv_lateral.0.weight'
    assert target[key] == f'{lateral}.0.conv.weight'
    key = f'{body}.posthoc_modules.0.0.weight'
    assert target[key] == f'{output}.3.conv.weight'


def test_a_backbone_is_no_detector():
    shapes = shapes_of('detectron_backbone_fpn')
    assert not detectron.is_detector(shapes)
    params = detectron.backbone_params(shapes)
    assert params['fpn'] and params['depth'] == 50
    assert {
        e.public: e.shape for e in detectron.backbone_entries(params)
    } == shapes


def test_an_incomplete_file():
    shapes = shapes_of('detectron_faster_rcnn_r50_fpn_sn')
    del shapes['Box_Outs.cls_score.weight']
    with pytest.raises(CheckpointError, match='cls_score.weight is missing'):
        detectron.detector_params(shapes)
