# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from __future__ import annotations

import pytest

from sn_mm import convert_norm
from sn_mm.anatomy import find_norms
from sn_mm.anatomy.components import component_of, in_components, in_order
from tests.builders import (
    BN_CFG,
    build,
    faster_rcnn,
    resnet,
    segmentor_config,
    switch_norms,
)


@pytest.mark.parametrize(
    'name, component',
    [
        ('backbone.layer1.0.sn1', 'backbone'),
        ('module.backbone.sn1', 'backbone'),
        ('student.neck.fpn_convs.0.sn', 'neck'),
        ('rpn_head.rpn_conv', 'rpn_head'),
        ('roi_head.bbox_head.shared_convs.0.sn', 'box_head'),
        ('roi_head.bbox_head.1.shared_convs.0.sn', 'box_head'),
        ('roi_head.mask_head.convs.0.sn', 'mask_head'),
        ('roi_head.shared_head.layer4.0.sn1', 'shared_head'),
        ('bbox_head.cls_convs.0.sn', 'box_head'),
        ('mask_head.mask_convs.0.sn', 'mask_head'),
        ('decode_head.bottleneck.sn', 'decode_head'),
        ('auxiliary_head.1.convs.0.sn', 'auxiliary_head'),
        ('head.fc', 'head'),
        ('layer4.2.sn3', 'backbone'),
        ('stem.1', 'backbone'),
        ('sn1', 'backbone'),
        ('encoder.norm', 'encoder'),
    ],
)
def test_names(name, component):
    assert component_of(name) == component


def test_parts_that_stand_alone():
    assert component_of('norm', resnet()) == 'backbone'
    assert component_of('norm', faster_rcnn().neck) == 'neck'


def test_order():
    found = in_order(['mask_head', 'other', 'backbone', 'mask_head'])
    assert found == ['backbone', 'mask_head', 'other']


@pytest.mark.parametrize(
    'components, prefixes',
    [
        ('backbone', ('backbone.',)),
        (['neck', 'box_head'], ('neck.', 'roi_head.bbox_head.')),
        ('FPN', ('neck.',)),
        (None, ('backbone.', 'neck.', 'roi_head.')),
    ],
)
def test_conversion_of_components(components, prefixes):
    model = faster_rcnn(BN_CFG)
    every = list(find_norms(model))
    convert_norm(model, 'SN', components=components)
    assert list(switch_norms(model)) == [
        n for n in every if n.startswith(prefixes)
    ]


def test_conversion_of_a_component_and_a_pattern():
    model = faster_rcnn(BN_CFG)
    convert_norm(model, 'SN', exclude='*.downsample.*', components='backbone')
    names = list(switch_norms(model))
    assert all(n.startswith('backbone.') for n in names)
    assert not any('downsample' in n for n in names)


def test_conversion_of_a_segmentors_heads():
    model = build('mmseg', segmentor_config(norm_cfg=BN_CFG).model)
    convert_norm(model, 'SN', components=('decode_head', 'auxiliary_head'))
    parts = {n.split('.')[0] for n in switch_norms(model)}
    assert parts == {'decode_head', 'auxiliary_head'}


def test_a_component_that_is_not_there():
    model = faster_rcnn(BN_CFG)
    with pytest.raises(ValueError, match="'mask_head' has no norm.*'box_hea"):
        convert_norm(model, 'SN', components='mask_head')
    assert in_components(model, ['backbone.bn1'], 'backbone') == [
        'backbone.bn1'
    ]
