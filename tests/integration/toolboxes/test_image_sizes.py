# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Evaluation on images of every size, whole and in sliding windows."""

import copy

import pytest
import torch
from mmdet.testing import demo_mm_inputs

from tests.builders import (
    build,
    faster_rcnn,
    flatten,
    randomize_norms,
    reference_copy,
    resnet,
    segmentor_config,
)

SIZES = [(64, 96), (33, 47), (32, 32), (17, 150), (1, 1)]
pytestmark = pytest.mark.filterwarnings(
    'ignore:SN on a map of a single position'
)


@pytest.fixture
def backbone():
    model = randomize_norms(resnet())
    model.eval()
    return model


def images(count, size, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=gen)


@torch.no_grad()
def test_every_size_agrees_with_the_oracle(backbone):
    before = copy.deepcopy(backbone.state_dict())
    reference = reference_copy(backbone)
    for size in SIZES + SIZES[:1]:
        x = images(1, size)
        for y, want in zip(backbone(x), reference(x.double())):
            torch.testing.assert_close(y.double(), want, rtol=1e-3, atol=1e-3)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(backbone):
    x = images(3, (64, 40))
    x[1] *= 10
    together = list(flatten(backbone(x)))
    for i in range(3):
        for y, alone in zip(together, backbone(x[i : i + 1])):
            torch.testing.assert_close(
                y[i : i + 1], alone, rtol=1e-4, atol=1e-4
            )


@torch.no_grad()
@pytest.mark.parametrize('size', [(64, 96), (97, 33)])
def test_a_detector_predicts(size):
    model = faster_rcnn()
    randomize_norms(model).eval()
    model.test_cfg.rcnn.score_thr = 0.0
    before = copy.deepcopy(model.state_dict())
    data = demo_mm_inputs(1, (3, *size))
    results = [model.test_step(data)[0].pred_instances for _ in range(2)]
    assert len(results[0]) and torch.isfinite(results[0].bboxes).all()
    assert torch.equal(results[0].bboxes, results[1].bboxes)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@torch.no_grad()
@pytest.mark.parametrize('size', [(40, 72), (48, 32), (24, 20)])
def test_sliding_windows(size):
    """mmseg's slide mode: the mean of what every crop gives by itself."""
    crop, stride = 32, 16
    model = build(
        'mmseg',
        segmentor_config(
            'deeplabv3',
            test_cfg=dict(
                mode='slide', crop_size=(crop, crop), stride=(stride, stride)
            ),
        ).model,
    )
    randomize_norms(model).eval()
    x = images(1, size)
    before = copy.deepcopy(model.state_dict())
    got = model.inference(x, [dict(ori_shape=size, img_shape=size)])
    total, count = torch.zeros(1, 4, *size), torch.zeros(1, 1, *size)
    for top in _starts(size[0], crop, stride):
        for left in _starts(size[1], crop, stride):
            window = (..., slice(top, top + crop), slice(left, left + crop))
            part = x[window]
            shape = dict(img_shape=part.shape[2:])
            total[window] += model.encode_decode(part, [shape])
            count[window] += 1
    torch.testing.assert_close(got, total / count, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(got).all() and got.std() > 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def _starts(length, crop, stride):
    """Where windows begin; the last one ends with the image."""
    if length <= crop:
        return [0]
    starts = list(range(0, length - crop, stride))
    return starts + [length - crop]
