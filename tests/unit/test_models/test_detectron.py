# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The public detection geometry, against arrays that its code computed."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample

from sn_mm.models.detectron import (
    DetectronAnchorGenerator,
    DetectronBBoxCoder,
    DetectronDataPreprocessor,
    DetectronOverlaps2D,
    DetectronResize,
    DetectronResNet,
    DetectronRoIExtractor,
    InclusiveBoxes,
)
from tests.paths import CONFIGS, DATA
from tests.utils import randomize


@pytest.fixture(scope='module')
def conventions():
    path = DATA / 'detectron_conventions.npz'
    with np.load(path) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files}


def assert_close(got, want, tolerance=1e-5):
    assert got.shape == want.shape
    error = (got.double() - want.double()).abs()
    assert (error <= tolerance * want.double().abs().clamp(min=1)).all()


def test_fpn_anchors(conventions):
    made = DetectronAnchorGenerator(
        strides=[4, 8, 16, 32, 64], scales=[8], ratios=[0.5, 1.0, 2.0]
    )
    for level, anchors in enumerate(made.base_anchors, 2):
        assert_close(anchors, conventions[f'fpn_cell_anchors_P{level}'], 0)


def test_c4_anchors(conventions):
    made = DetectronAnchorGenerator(
        strides=[16], scales=[2, 4, 8, 16, 32], ratios=[0.5, 1.0, 2.0]
    )
    assert_close(made.base_anchors[0], conventions['c4_cell_anchors'], 0)
    grid = made.grid_priors([(2, 3)], device='cpu')[0].view(2, 3, 15, 4)
    shift = grid[1, 2] - grid[0, 0]
    assert (shift == torch.tensor([32.0, 16.0, 32.0, 16.0])).all()


CODERS = {
    'rpn': DetectronBBoxCoder(),
    'rcnn': DetectronBBoxCoder(target_stds=(0.1, 0.1, 0.2, 0.2)),
}


@pytest.mark.parametrize('name', CODERS)
def test_box_coder(conventions, name):
    coder = CODERS[name]
    boxes, gt = conventions['boxes'], conventions['gt']
    assert_close(coder.encode(boxes, gt), conventions[f'deltas_{name}'])
    assert_close(
        coder.decode(boxes, conventions['raw_deltas']),
        conventions[f'decoded_{name}'],
    )
    back = coder.decode(boxes, coder.encode(boxes, gt))
    assert_close(back, gt, 1e-4)


def test_decoded_boxes_are_clipped_to_the_last_pixel(conventions):
    got = CODERS['rcnn'].decode(
        conventions['boxes'], conventions['raw_deltas'], max_shape=(600, 800)
    )
    assert_close(got, conventions['decoded_rcnn_clipped_600x800'])


def test_class_wise_decoding_is_decoding_of_each(conventions):
    boxes, deltas = conventions['boxes'], conventions['raw_deltas']
    both = CODERS['rcnn'].decode(boxes, torch.cat([deltas, -deltas], dim=1))
    assert torch.equal(both[:, :4], CODERS['rcnn'].decode(boxes, deltas))
    assert torch.equal(both[:, 4:], CODERS['rcnn'].decode(boxes, -deltas))


def test_roi_levels(conventions):
    extractor = DetectronRoIExtractor(
        dict(type='RoIAlign', output_size=7), 8, [4, 8, 16, 32]
    )
    rois = conventions['rois']
    rois = torch.cat([rois.new_zeros(len(rois), 1), rois], dim=1)
    levels = extractor.map_roi_levels(rois, 4)
    assert torch.equal(levels + 2, conventions['roi_fpn_level'])


def test_overlaps_count_the_last_pixel():
    overlaps = DetectronOverlaps2D()
    boxes = torch.tensor([[0.0, 0, 9, 9], [9, 9, 18, 18], [3, 3, 3, 3]])
    got = overlaps(boxes, boxes)
    want = torch.eye(3)
    want[0, 1] = want[1, 0] = 1 / 199
    want[0, 2] = want[2, 0] = 1 / 100
    assert torch.allclose(got, want)
    assert overlaps(boxes[:0], boxes).shape == (0, 3)


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


def test_resize_by_one_factor():
    image = np.random.default_rng(0).random((50, 83, 3)).astype(np.float32)
    results = dict(img=image)
    DetectronResize(scale=(100, 75))(results)
    factor = 100 / 83  # 75 / 50 would make the longer side 124.5
    want = cv2.resize(image, None, None, factor, factor, cv2.INTER_LINEAR)
    assert np.array_equal(results['img'], want)
    assert results['scale_factor'] == (factor, factor)
    assert results['img_shape'] == want.shape[:2]


def test_inclusive_boxes():
    from mmdet.structures.bbox import HorizontalBoxes

    results = dict(gt_bboxes=HorizontalBoxes(torch.tensor([[1.0, 2, 4, 8]])))
    InclusiveBoxes()(results)
    assert results['gt_bboxes'].tensor.tolist() == [[1, 2, 3, 7]]


def test_test_images_end_at_their_padding():
    preprocessor = DetectronDataPreprocessor(
        mean=[1, 2, 3], std=[1, 1, 1], pad_size_divisor=32
    )
    for training, shape in ((False, (32, 64)), (True, (30, 40))):
        sample = DetDataSample(metainfo=dict(img_shape=(30, 40)))
        data = dict(inputs=[torch.ones(3, 30, 40)], data_samples=[sample])
        out = preprocessor(data, training)
        assert out['data_samples'][0].img_shape == shape
        assert out['inputs'].shape == (1, 3, 32, 64)
        assert (out['inputs'][0, :, 30:] == 0).all()


def test_first_stages_use_the_batch():
    model = DetectronResNet(
        18, base_channels=8, norm_cfg=dict(type='SN'), frozen_stages=1
    )
    norm = model.layer1[0].sn1
    randomize(norm)
    x = torch.randn(1, 8, 6, 6)
    before = norm.running_mean.clone()
    model.eval()
    in_test = norm(x)
    # with one image, BN's statistics are IN's: the ratios add up
    want = norm(x.repeat(2, 1, 1, 1))[:1]
    with torch.no_grad():
        for weight in (norm.mean_weight, norm.var_weight):
            weight[0] = weight[[0, 2]].logsumexp(0)
            weight[2] = float('-inf')
    assert torch.allclose(in_test, norm(x), atol=1e-5)
    assert torch.allclose(in_test, want, atol=1e-5)
    assert torch.equal(norm.running_mean, before)
    later = model.layer2[0].sn1
    assert later.track_running_stats and 'running_var' in later.state_dict()
