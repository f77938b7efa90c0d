# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import math

import pytest
import torch

from sn_mm.ops.soft_nms import softnms

# the second covers a third of the first, the third is far away
BOXES = torch.tensor([[0.0, 0, 4, 2], [2, 0, 6, 2], [20, 0, 24, 2]])
SCORES = torch.tensor([0.9, 0.8, 0.3])
IOU = 4 / 12


@pytest.mark.parametrize(
    'method, factor', [(0, 0), (1, 1 - IOU), (2, math.exp(-(IOU**2) / 0.5))]
)
def test_scores_are_lowered(method, factor):
    dets = torch.empty(3, 5)
    kept = softnms(BOXES, SCORES, dets, 0.3, 0.5, 1e-3, method, 0)
    lowered = 0.8 * factor
    order = [0, 1, 2] if lowered > 0.3 else [0, 2]
    assert kept.tolist() == order
    want = torch.tensor([[0.9, lowered, 0.3][i] for i in order])
    torch.testing.assert_close(dets[: len(kept), 4], want)
    assert torch.equal(dets[: len(kept), :4], BOXES[order])


def test_below_the_threshold_nothing_is():
    dets = torch.empty(3, 5)
    kept = softnms(BOXES, SCORES, dets, 0.5, 0.5, 1e-3, 1, 0)
    assert kept.tolist() == [0, 1, 2]
    torch.testing.assert_close(dets[:, 4], SCORES)


def test_scores_that_get_too_low_and_nothing():
    dets = torch.empty(3, 5)
    assert softnms(BOXES, SCORES, dets, 0.3, 0.5, 0.6, 1, 0).tolist() == [0]
    assert len(softnms(BOXES[:0], SCORES[:0], dets, 0.3, 0.5, 0, 1, 0)) == 0
    assert SCORES.tolist() == pytest.approx([0.9, 0.8, 0.3])
