# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import torch

from sn_mm.models.detectron import DetectronResize, InclusiveBoxes


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
