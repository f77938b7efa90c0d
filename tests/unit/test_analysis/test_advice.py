# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the paper advises against, in rows of the table and in configs."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from sn_mm.analysis.advice import (
    Start,
    advise,
    is_detector,
    pretraining_batch,
    starts_of,
)
from sn_mm.analysis.norm_table import NormRow
from sn_mm.anatomy.ratios import LayerRatios
from sn_mm.anatomy.trace import NormTrace
from tests.builders import build, toolbox_config

NAMES = ('in', 'ln', 'bn')


def row(name='backbone.sn1', component='backbone', batch=True, bn=None):
    ratios = None
    if bn is not None:
        own = np.array([[(1 - bn) / 2, (1 - bn) / 2, bn]])
        ratios = LayerRatios(name, NAMES, own, own)
    return NormRow(name, component, 'SN2d', 8, 'yes', 'no', batch, ratios)


def said(rows, seen=None, images=2, starts=(), trained=True, detects=False):
    return advise(rows, seen or {}, images, starts, trained, detects)


def test_maps_of_a_single_position():
    rows = [row('a', bn=0.1), row('b', bn=0.1), row('gn')]
    seen = {n: NormTrace(positions=1) for n in ('a', 'gn')}
    (text,) = said(rows, {**seen, 'b': NormTrace(positions=4)})
    assert 'single position: a.' in text and 'num_groups=32' in text


@pytest.mark.parametrize(
    'images, before, warns',
    [(2, 8, True), (2, 7, False), (8, 2, True), (2, None, False)],
)
def test_batches_of_pretraining(images, before, warns):
    start = Start('x.pth', 'backbone', before)
    found = said([row()], images=images, starts=[start])
    assert bool(found) is warns
    assert said([row()], images=None, starts=[start]) == []
    # of another component, or without statistics of its own batch
    assert said([row(component='neck')], images=2, starts=[start]) == []
    assert said([row(batch=False)], images=images, starts=[start]) == []
    whole = Start('x.pth', None, before)
    found = said([row(component='neck')], images=images, starts=[whole])
    assert bool(found) is warns


def test_large_ratios_of_bn_at_a_small_batch():
    rows = [row('a', bn=0.36), row('b', bn=0.9), row('c', bn=0.2)]
    (text,) = said(rows)
    assert 'a and b' in text.replace(', b', ' and b')
    assert '(largest 0.90 in b)' in text
    assert said(rows, images=3) == [] and said(rows, trained=False) == []
    # equal shares of three are not large, nor is a detector's rise
    assert said([row('a', bn=1 / 3)]) == []
    assert said(rows, detects=True) == []


def test_a_detector_whose_head_has_no_norms():
    cfg = toolbox_config('mmdet', 'retinanet/retinanet_r18_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    detector = build('mmdet', cfg.model)
    assert is_detector(detector)
    assert is_detector(nn.ModuleDict(dict(rpn_head=nn.Identity())))
    assert not is_detector(detector.backbone)
    assert not is_detector(nn.ModuleDict(dict(decode_head=nn.Identity())))


@pytest.mark.parametrize(
    'name, images',
    [
        ('torchvision://resnet50', 32),
        ('bn2sn://torchvision://resnet50', 32),
        ('work/resnet50_sn_8xb2_in1k.pth', 2),
        ('sn://ResNet50v1_sn_(8,4).pth', 4),
        ('sn-8x32.pth', 32),
        ('resnet50.pth', None),
        ('fcn_r50-d8_512x1024_40k_cityscapes.pth', None),
        ('pspnet_r50-d8_769x769_80k.pth', None),
        ('fcn_r50_4xb2-40k_cityscapes-512x1024.pth', 2),
        ('resnet50_4x2x1.pth', None),
    ],
)
def test_batch_in_a_name(name, images):
    assert pretraining_batch(name) == images


def test_starts_of_configs():
    init = dict(type='Pretrained', checkpoint='sn_8xb2.pth')
    head = dict(init_cfg=[dict(type='Normal'), dict(init, prefix='neck')])
    config = dict(model=dict(backbone=dict(init_cfg=init), neck=head))
    assert starts_of(config) == [
        Start('sn_8xb2.pth', 'backbone', 2, 'backbone'),
        Start('sn_8xb2.pth', 'neck', 2, 'neck'),
    ]
    # takes the place of what fills the parts
    config['load_from'] = 'torchvision://resnet50'
    assert starts_of(config) == [Start('torchvision://resnet50', None, 32)]
    mmseg = dict(model=dict(pretrained='a.pth', backbone=dict()))
    assert starts_of(mmseg) == [Start('a.pth', 'backbone', None, 'backbone')]
    assert starts_of({}) == []


def test_parts_beside_pretrained_keep_their_names():
    start = dict(type='Pretrained', checkpoint='head.pth')
    model = dict(pretrained='a.pth', decode_head=dict(init_cfg=start))
    found = starts_of(dict(model=model))
    assert [(s.checkpoint, s.part) for s in found] == [
        ('a.pth', 'backbone'),
        ('head.pth', 'decode_head'),
    ]
