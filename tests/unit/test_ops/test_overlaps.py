# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.ops.overlaps import overlaps

BOXES = torch.tensor(
    [[0.0, 0, 4, 2], [2, 0, 6, 2], [4, 0, 8, 2], [1, 1, 1, 1]]
)


def test_by_hand():
    got = overlaps(BOXES[:1], BOXES[:3], 0)
    # half of it; an edge in common
    torch.testing.assert_close(got, torch.tensor([[1, 4 / 12, 0.0]]))


def test_corners_that_are_pixels():
    got = overlaps(BOXES[:1], BOXES, 1)
    # 5 x 3 pixels each: 3, 1 and a column of them in common; one pixel
    want = torch.tensor([[1, 9 / 21, 3 / 27, 1 / 15]])
    torch.testing.assert_close(got, want)


def test_boxes_without_area():
    got = overlaps(BOXES[3:], BOXES, 0)
    assert got[0, :3].tolist() == [0, 0, 0] and got[0, 3].isnan()
    assert overlaps(BOXES[:0], BOXES, 0).shape == (0, 4)
