# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the toolboxes' own networks are taught with, part by part."""

import copy
import importlib

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from sn_mm.cli import load_config, register_toolbox
from sn_mm.surgery.convert_norm import swap_norms
from sn_mm.teaching import check_parts
from sn_mm.teaching.outputs import run_taught, run_teacher
from sn_mm.teaching.rois import Regions

loop = importlib.import_module('sn_mm.teaching.transplant')
SMALL = dict(depth=18, base_channels=8, frozen_stages=-1, norm_eval=False,
             init_cfg=None)  # fmt: skip
CHANNELS = [8, 16, 32, 64]
FPN = dict(in_channels=CHANNELS, out_channels=16, norm_cfg=dict(type='BN'))
DETECTORS = {
    'retinanet/retinanet_r50_fpn_1x_coco': dict(
        bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1)
    ),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': dict(
        bbox_head=dict(in_channels=16, feat_channels=32, stacked_convs=1)
    ),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': dict(
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            bbox_head=dict(in_channels=16, fc_out_channels=32),
            mask_roi_extractor=dict(out_channels=16),
            mask_head=dict(
                in_channels=16, conv_out_channels=16, norm_cfg=dict(type='BN')
            ),
        ),
    ),
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco': dict(
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(bbox_roi_extractor=dict(out_channels=16)),
    ),
}
NAMES = {
    'retinanet': {'backbone.0', 'neck.4', 'bbox_head.0.0', 'bbox_head.1.4'},
    'fcos': {'neck.4', 'bbox_head.0.0', 'bbox_head.1.0', 'bbox_head.2.4'},
    'mask_rcnn': {
        'rpn_head.0.0',
        'rpn_head.1.4',
        'roi_head.bbox_head.0',
        'roi_head.bbox_head.1',
        'roi_head.mask_head',
    },
    'cascade_rcnn': {
        'rpn_head.0.0',
        *(f'roi_head.bbox_head.{i}.{j}' for i in range(3) for j in range(2)),
    },
}


def built(toolbox, name, changes):
    cfg = load_config(f'{toolbox}::{name}.py')
    cfg.merge_from_dict(dict(model=changes))
    scope = register_toolbox(cfg)
    with MODELS.switch_scope_and_registry(scope) as models:
        torch.manual_seed(0)
        return models.build(cfg.model)


def settled(model, inputs):
    """Running statistics that fit the pictures."""
    for module in model.modules():
        if hasattr(module, 'momentum') and hasattr(module, 'running_mean'):
            module.momentum = None
    model.train()
    feats = model.backbone(inputs)
    if getattr(model, 'neck', None) is not None:
        model.neck(feats)
    return model.eval()


@pytest.fixture(params=list(DETECTORS), ids=lambda n: n.split('/')[0])
def detector(request):
    from mmdet.structures import DetDataSample

    changes = copy.deepcopy(DETECTORS[request.param])
    changes['backbone'] = dict(SMALL)
    changes['neck'] = dict(FPN)
    if 'cascade' in request.param:
        heads = load_config(f'mmdet::{request.param}.py')
        heads = heads.model.roi_head.bbox_head
        for head in heads:
            head.update(in_channels=16, fc_out_channels=32)
        changes['roi_head']['bbox_head'] = heads
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = built('mmdet', request.param, changes)
        inputs = torch.randn(2, 3, 64, 96)
        meta = dict(
            img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0),
            pad_shape=(64, 96), batch_input_shape=(64, 96), img_id=0,
        )  # fmt: skip
        samples = [DetDataSample(metainfo=dict(meta)) for _ in range(2)]
        batch = dict(inputs=inputs, data_samples=samples)
        yield request.param.split('/')[0], settled(model, inputs), batch


@torch.no_grad()
def test_detectors(detector):
    name, teacher, batch = detector
    parts, regions = check_parts('all'), Regions()
    want = run_teacher(teacher, batch, parts, regions)
    assert NAMES[name] <= set(want)
    assert {f'backbone.{i}' for i in range(4)} <= set(want)
    assert {f'neck.{i}' for i in range(5)} <= set(want)
    # the student's proposals and boxes are others, what it looks at is not
    student = swap_norms(copy.deepcopy(teacher), dict(type='SN')).eval()
    for parameter in student.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    got = run_taught(student, batch, parts, regions)
    assert {k: v.shape for k, v in got.items()} == {
        k: v.shape for k, v in want.items()
    }
    if not hasattr(teacher, 'roi_head'):
        return
    assert len(regions.proposals) == 2
    assert all(0 < len(p) <= 512 for p in regions.proposals)
    looked = []
    extractors = teacher.roi_head.bbox_roi_extractor
    if not isinstance(extractors, torch.nn.ModuleList):
        extractors = [extractors]
    for extractor in extractors:
        original = extractor.forward

        def forward(feats, rois, *args, original=original):
            looked.append(rois)
            return original(feats, rois, *args)

        extractor.forward = forward
    # a twin of the teacher that follows gives what the teacher gave
    again = run_taught(teacher, batch, parts, regions)
    assert all(torch.equal(again[k], want[k]) for k in want)
    assert len(looked) == len(extractors)
    assert all(torch.equal(a, b) for a, b in zip(looked, regions.rois))


@torch.no_grad()
def test_a_student_is_taught_in_the_mode_that_it_is_compared_in(detector):
    """But for its norms: FCOS scales its boxes in evaluation mode alone."""
    _, teacher, batch = detector
    parts, regions = check_parts('all'), Regions()
    want = run_teacher(teacher, batch, parts, regions)
    student = copy.deepcopy(teacher)
    loop._teaching_mode(student)
    norms = [m for m in student.modules() if m.training]
    assert norms and all('Norm' in type(m).__name__ for m in norms)
    for norm in norms:
        norm.eval()
    got = run_taught(student, batch, parts, regions)
    assert all(torch.equal(got[k], want[k]) for k in want)


def test_segmentors():
    """Auxiliary heads, which mmseg runs in training alone, are taught."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = built(
            'mmseg',
            'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
            dict(
                pretrained=None,
                data_preprocessor=dict(size=(64, 64)),
                backbone=dict(
                    depth=18,
                    stem_channels=8,
                    base_channels=8,
                    norm_cfg=dict(type='BN'),
                ),
                decode_head=dict(
                    in_channels=64, channels=16, norm_cfg=dict(type='BN')
                ),
                auxiliary_head=dict(
                    in_channels=32, channels=8, norm_cfg=dict(type='BN')
                ),
            ),
        )
        inputs = torch.randn(2, 3, 64, 64)
        teacher = settled(model, inputs)
        with torch.no_grad():
            want = run_teacher(teacher, inputs, check_parts('all'), Regions())
            feats = teacher.extract_feat(inputs)
            torch.testing.assert_close(
                want['decode_head'], teacher.decode_head(feats)
            )
            torch.testing.assert_close(
                want['auxiliary_head'], teacher.auxiliary_head(feats)
            )
    assert set(want) == {
        *(f'backbone.{i}' for i in range(4)),
        'decode_head',
        'auxiliary_head',
    }
