# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.models.detectron import DetectronAnchorGenerator
from tests.unit.test_models.test_detectron.close import assert_close


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
