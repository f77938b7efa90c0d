# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.models.detectron import DetectronOverlaps2D


def test_overlaps_count_the_last_pixel():
    overlaps = DetectronOverlaps2D()
    boxes = torch.tensor([[0.0, 0, 9, 9], [9, 9, 18, 18], [3, 3, 3, 3]])
    got = overlaps(boxes, boxes)
    want = torch.eye(3)
    want[0, 1] = want[1, 0] = 1 / 199
    want[0, 2] = want[2, 0] = 1 / 100
    assert torch.allclose(got, want)
    assert overlaps(boxes[:0], boxes).shape == (0, 3)
