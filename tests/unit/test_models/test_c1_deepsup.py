# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Testing as the public segmentation code does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from sn_mm.models.c1_deepsup import (  # noqa: E402
    DirectFCNHead,
    ResizeToStride,
)


def test_logits_keep_the_stride_of_the_features():
    head = DirectFCNHead(
        in_channels=4,
        channels=4,
        num_convs=1,
        concat_input=False,
        num_classes=3,
        norm_cfg=dict(type='SN'),
    ).eval()
    features = [torch.randn(2, 4, 5, 7)]
    metas = [dict(img_shape=(40, 56))] * 2
    with torch.no_grad():
        logits = head.predict(features, metas, test_cfg=dict(mode='whole'))
        assert torch.equal(logits, head(features))
    assert logits.shape == (2, 3, 5, 7)


@pytest.mark.parametrize(
    'size, short, want',
    [
        # the shorter side becomes 300 and is rounded up to 304
        ((480, 640), 300, (304, 400)),
        ((640, 480), 300, (400, 304)),
        ((100, 133), 400, (400, 536)),
        ((8, 8), 8, (8, 8)),
    ],
)
def test_sides_are_multiples_of_the_stride(size, short, want):
    pixels = np.zeros((*size, 3), np.uint8)
    labels = np.zeros(size, np.uint8)
    results = ResizeToStride(short)(dict(img=pixels, gt_seg_map=labels))
    assert results['img'].shape[:2] == results['img_shape'] == want
    assert results['scale_factor'] == (
        want[1] / size[1],
        want[0] / size[0],
    )
    assert results['gt_seg_map'].shape == size
    assert results['keep_ratio'] is False


def test_another_divisor():
    pixels = np.zeros((50, 70, 3), np.uint8)
    results = ResizeToStride(60, divisor=32)(dict(img=pixels))
    assert results['img_shape'] == (64, 96)
