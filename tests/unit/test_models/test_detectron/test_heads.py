# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RoI heads: boxes at the original scale, which end one pixel later."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops import batched_nms
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from sn_mm.models.detectron import DetectronBBoxCoder, heads
from tests.paths import CONFIGS

KEEP_ALL = ConfigDict(
    score_thr=0.0, nms=dict(type='nms', iou_threshold=1.0), max_per_img=9
)


def box_head():
    with DefaultScope.overwrite_default_scope('mmdet'):
        return heads.DetectronBBoxHead(
            with_avg_pool=False,
            roi_feat_size=1,
            in_channels=4,
            num_classes=1,
            reg_class_agnostic=True,
            bbox_coder=dict(
                type='DetectronBBoxCoder', target_stds=(0.1, 0.1, 0.2, 0.2)
            ),
        )


@pytest.mark.parametrize('rescale', [True, False])
def test_boxes_are_decoded_at_the_original_scale(rescale):
    """Where the + 1 of a width is a pixel of the picture as it was."""
    roi = torch.tensor([[0.0, 10, 20, 50, 80]])
    deltas = torch.tensor([[0.3, -0.2, 0.5, 0.1]])
    meta = dict(
        scale_factor=(2.0, 2.0), ori_shape=(100, 90), img_shape=(200, 180)
    )
    found = box_head()._predict_by_feat_single(
        roi,
        torch.tensor([[2.0, 0.0]]),
        deltas,
        meta,
        rescale=rescale,
        rcnn_test_cfg=KEEP_ALL,
    )
    coder = DetectronBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2))
    want = coder.decode(roi[:, 1:] / 2, deltas, max_shape=(100, 90))
    torch.testing.assert_close(found.bboxes, want * (1 if rescale else 2))


def test_boxes_end_a_pixel_of_the_original_later():
    boxes = torch.tensor([[1.0, 2, 3, 4]])
    heads._end_later(boxes, dict(scale_factor=(2.0, 3.0)))
    assert boxes.tolist() == [[1, 2, 5, 7]]
    heads._end_later(boxes, {})
    assert boxes.tolist() == [[1, 2, 6, 8]]


def test_masks_are_pasted_into_the_later_boxes():
    head = heads.DetectronMaskHead(
        num_convs=0,
        roi_feat_size=4,
        in_channels=2,
        conv_out_channels=2,
        num_classes=1,
    )
    boxes = torch.tensor([[2.0, 1, 5, 6]])
    masks = head._predict_by_feat_single(
        torch.full((1, 1, 8, 8), 9.0),
        boxes,
        torch.zeros(1).long(),
        dict(scale_factor=(1.0, 1.0), ori_shape=(10, 12)),
        ConfigDict(mask_thr_binary=0.5),
        False,
        True,
    )
    assert boxes.tolist() == [[2, 1, 6, 7]]
    # of four by six pixels, all that the box covers
    assert masks[0, 1:7, 2:6].all() and masks.sum() == 24


@pytest.mark.parametrize(
    'config', ['faster-rcnn_r50_fpn_sn_2x', 'faster-rcnn_r50_c4_sn_2x']
)
def test_nms_of_the_configs_suppresses_at_the_threshold(config):
    from mmengine.config import Config

    root = CONFIGS / 'released'
    nms = Config.fromfile(root / f'{config}_coco.py').model.test_cfg.rcnn.nms
    # 10 x 3 and 10 x 6 pixels, one inside the other: IoU is exactly 1 / 2
    boxes = torch.tensor([[0.0, 0, 9, 2], [0, 0, 9, 5], [0, 0, 9, 6]])
    scores, ids = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3)
    assert batched_nms(boxes[:2], scores[:2], ids[:2], nms)[1].tolist() == [0]
    keep = batched_nms(boxes[[0, 2]], scores[:2], ids[:2], nms)[1]
    assert keep.tolist() == [0, 1]
