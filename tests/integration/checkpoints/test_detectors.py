# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whole detectors: each part of the shipped config against the original."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import RoIAlign
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from sn_mm import load_pretrained
from sn_mm.checkpoints import CheckpointError
from tests.public.networks import relative_error
from tests.public.released_configs import RELEASED, build

CONFIGS = {
    'faster_rcnn_r50_fpn_sn': 'faster-rcnn_r50_fpn_sn',
    'faster_rcnn_r50_fpn_sn_nobn': 'faster-rcnn_r50_fpn_sn-nobn',
    'mask_rcnn_r50_fpn_sn_nobn': 'mask-rcnn_r50_fpn_sn-nobn',
    'faster_rcnn_r50_c4_sn': 'faster-rcnn_r50_c4_sn',
}
BOX_HEAD = 'model.roi_head.bbox_head.type'


@pytest.fixture(scope='module', params=CONFIGS)
def pair(request, released):
    """(original, ours, features of both on one image)."""
    original, path = released(f'detectron_{request.param}')
    _, model = build(f'{CONFIGS[request.param]}_2x_coco')
    report = load_pretrained(model, f'sn://{path}')
    assert report.complete
    image = torch.randn(
        1, 3, 64, 64, generator=torch.Generator().manual_seed(2)
    )
    with torch.no_grad():
        yield (
            original,
            model,
            original.features(image),
            model.extract_feat(image),
        )


def test_features(pair):
    _, _, want, got = pair
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert relative_error(g, w) < 1e-4


@torch.no_grad()
def test_proposals(pair):
    original, model, features, _ = pair
    scores, deltas = model.rpn_head(tuple(features))
    for x, score, delta in zip(features, scores, deltas):
        want_score, want_delta = original.RPN(x)
        assert relative_error(score, want_score) < 1e-4
        assert relative_error(delta, want_delta) < 1e-4


@torch.no_grad()
def test_boxes(pair):
    original, model, features, _ = pair
    rois = torch.tensor([[0, 3.0, 2, 40, 60], [0, 10, 5, 30, 20]])
    if original.fpn:  # both RoIs are small: level P2
        pooled = RoIAlign(7, 1 / 4, 2, aligned=False)(features[0], rois)
    else:
        pooled = RoIAlign(14, 1 / 16, 0, aligned=False)(features[0], rois)
    cls_score, bbox_pred = original.Box_Outs(original.Box_Head(pooled))
    got = model.roi_head._bbox_forward(tuple(features[:4]), rois)
    want_cls = torch.cat([cls_score[:, 1:], cls_score[:, :1]], dim=1)
    assert relative_error(got['cls_score'], want_cls) < 1e-4
    assert relative_error(got['bbox_pred'], bbox_pred[:, 4:]) < 1e-4


@torch.no_grad()
def test_masks(pair):
    original, model, features, _ = pair
    if not hasattr(original, 'Mask_Head'):
        assert not model.roi_head.with_mask
        return
    rois = torch.tensor([[0, 3.0, 2, 40, 60], [0, 10, 5, 30, 20]])
    pooled = RoIAlign(14, 1 / 4, 2, aligned=False)(features[0], rois)
    want = original.Mask_Outs(original.Mask_Head(pooled))[:, 1:]
    got = model.roi_head._mask_forward(tuple(features[:4]), rois)
    assert relative_error(got['mask_preds'], want) < 1e-4


def test_the_scheme_fills_a_detector_strictly(released):
    original, path = released('detectron_mask_rcnn_r50_fpn_sn_nobn')
    _, model = build('mask-rcnn_r50_fpn_sn-nobn_2x_coco')
    load_checkpoint(model, f'sn://{path}', strict=True)
    got = model.roi_head.bbox_head.fc_cls.bias
    want = original.Box_Outs.cls_score.bias
    assert torch.equal(got, torch.cat([want[1:], want[:1]]))


def test_parts_of_a_detector(released):
    from mmdet.registry import MODELS

    original, path = released('detectron_faster_rcnn_r50_fpn_sn_nobn')
    norm_cfg = dict(type='SN', unbiased=True, statistics=('in', 'ln'))
    neck = MODELS.build(
        dict(
            type='FPN',
            in_channels=[256, 512, 1024, 2048],
            out_channels=256,
            num_outs=5,
            norm_cfg=norm_cfg,
            init_cfg=dict(
                type='Pretrained', checkpoint=f'sn://{path}', prefix='neck'
            ),
        )
    )
    neck.init_weights()
    want = original.Conv_Body.posthoc_modules[0][0].weight
    assert torch.equal(neck.fpn_convs[3].conv.weight, want)
    backbone = MODELS.build(dict(type='ResNet', depth=50, norm_cfg=norm_cfg))
    report = load_pretrained(backbone, str(path))
    assert report.complete
    assert any('no neck' in d.reason for d in report.dropped)


def test_a_backbone_file_fills_both_parts_of_a_c4_detector(released):
    original, path = released('imagenet_resnetv1sn50')
    _, model = build('faster-rcnn_r50_c4_sn_2x_coco')
    report = load_pretrained(model, str(path))
    assert not any('shared_head' in k for k in report.missing)
    got = model.roi_head.shared_head.layer4[2].conv3.weight
    assert torch.equal(got, original.layer4[2].conv3.weight)
    assert torch.equal(model.backbone.conv1.weight, original.conv1.weight)


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'model.roi_head.bbox_head.num_classes': 20},
            r'set num_classes=80 in model\.roi_head\.bbox_head',
        ),
        (
            {'model.neck.norm_cfg.statistics': ('in', 'ln', 'bn')},
            r"statistics=\('in', 'ln'\) in norm_cfg of model\.neck",
        ),
        (
            {'model.neck.norm_cfg': None},
            r"model\.neck has no SN: set norm_cfg=dict\(type='SN'",
        ),
        (
            {'model.backbone.style': 'caffe'},
            r"set style='pytorch' in model\.backbone",
        ),
        (
            {BOX_HEAD: 'DetectronShared4Conv1FCBBoxHead'},
            r'roi_head\.bbox_head',
        ),
    ],
)
def test_contradictions(released, changes, message):
    _, path = released('detectron_faster_rcnn_r50_fpn_sn_nobn')
    config = 'faster-rcnn_r50_fpn_sn-nobn_2x_coco'
    _, model = build(config, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, str(path))


def test_batch_statistics_in_res2(released):
    """The variant config equals the original with res2's norms training."""
    original, path = released('detectron_faster_rcnn_r50_fpn_sn')
    _, model = build('faster-rcnn_r50_fpn_sn_res2-batch-stats_2x_coco')
    load_pretrained(model, str(path))
    image = torch.randn(1, 3, 64, 64)
    body = original.Conv_Body.conv_body
    with torch.no_grad():
        plain = body.features(image)[-1]
        try:
            body.res2.train()
            want = body.features(image)
        finally:
            body.res2.eval()
        got = model.backbone(image)
    assert relative_error(plain, want[-1]) > 1e-2
    for g, w in zip(got, want):
        assert relative_error(g, w) < 1e-4


def test_padding_is_after_normalization_and_colours_are_rgb():
    _, model = build('faster-rcnn_r50_fpn_sn_2x_coco')
    image = torch.randint(0, 255, (3, 40, 50)).float()
    out = model.data_preprocessor(dict(inputs=[image], data_samples=None))
    rgb = image.flip(0) / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    want = F.pad((rgb - mean) / std, (0, 14, 0, 24))
    assert torch.allclose(out['inputs'][0], want, atol=1e-5)


@pytest.mark.parametrize('model', ['faster-rcnn', 'mask-rcnn'])
@pytest.mark.parametrize('norm', ['sn', 'sn-nobn'])
def test_detectors_from_scratch_see_other_pixels(model, norm):
    name = f'{model}_r50_fpn_{norm}_scratch_coco.py'
    config = Config.fromfile(RELEASED / name).model
    pixels = config.data_preprocessor
    assert pixels.mean == [102.9801, 115.9465, 122.7717]
    assert pixels.std == [1, 1, 1] and not pixels.bgr_to_rgb
    assert config.backbone.frozen_stages == -1
    two = norm == 'sn-nobn'
    assert (config.neck.norm_cfg.get('statistics') == ('in', 'ln')) == two
