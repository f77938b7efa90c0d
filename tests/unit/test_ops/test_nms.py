# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Suppression by hand, and the blocks against one matrix."""

import importlib

import pytest
import torch

from sn_mm.ops.overlaps import overlaps
from tests.unit.test_ops import cases

# the package has a function of that name, too
module = importlib.import_module('sn_mm.ops.nms')


def greedy(boxes, scores, threshold, offset=0):
    """One box after the other."""
    order = scores.argsort(descending=True, stable=True).tolist()
    above = overlaps(boxes, boxes, offset) > threshold
    kept = []
    for i in order:
        if not any(above[k, i] for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.05, 0.2])
def test_many_blocks_are_one_greedy_pass(
    backend, monkeypatch, threshold, offset
):
    monkeypatch.setattr(module, '_BLOCK', 7)
    boxes, scores = cases.boxes(3, 60), cases.scores(4, 60)
    got = module.nms(boxes, scores, threshold, offset)
    assert got.tolist() == greedy(boxes, scores, threshold, offset)
    assert len(got) < 60


def test_a_chain_of_boxes(backend):
    """The second goes for the first, so that the third stays."""
    x = torch.tensor([0.0, 4, 8, 12, 16])[:, None]
    boxes = torch.cat([x, 0 * x, x + 10, 0 * x + 10], 1)
    scores = torch.linspace(0.9, 0.5, 5)
    assert module.nms(boxes, scores, 0.4).tolist() == [0, 2, 4]


def test_equal_scores_and_nothing(backend):
    boxes = torch.ones(3, 4) * torch.tensor([0.0, 0, 2, 2])
    assert module.nms(boxes, torch.ones(3), 0.5).tolist() == [0]
    empty = module.nms(boxes[:0], torch.ones(0), 0.5)
    assert empty.shape == (0,) and empty.dtype == torch.long
