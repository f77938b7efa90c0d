# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from .overlaps import overlaps
from .torchvision_ops import torchvision_ops

_BLOCK = 128


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0
) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4), corners x1, y1, x2, y2.
        scores: (N,).
        iou_threshold: a box goes if its overlap (intersection over union)
            with a better one that stays is larger.
        offset: see :func:`~.overlaps.overlaps`.

    Returns:
        Indices of the boxes that stay, best first; of equal ones the first.
    """
    if not len(boxes):
        return torch.empty(0, dtype=torch.long, device=boxes.device)
    if boxes.dtype != torch.float64:
        boxes = boxes.float()
    # As mmcv does, which takes the threshold as float32: an overlap that
    # equals it is then not larger.
    iou_threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    library = torchvision_ops('nms')
    if library is None:
        return order[_suppress(boxes, iou_threshold, offset)]
    ranks = torch.arange(len(order), 0, -1, device=boxes.device)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return order[library.nms(boxes, ranks.to(boxes.dtype), iou_threshold)]


def _suppress(boxes: Tensor, threshold: float, offset: int) -> Tensor:
    """Indices, ascending, of the boxes that stay; the best come first.

    A block of the best boxes is settled among themselves, then takes those
    behind it away, so that no matrix of all overlaps is made.
    """
    left = torch.arange(len(boxes), device=boxes.device)
    kept = []
    while len(left):
        block, left = left[:_BLOCK], left[_BLOCK:]
        best = boxes[block]
        stays = _settle(overlaps(best, best, offset) > threshold)
        kept.append(block[stays])
        if len(left):
            over = overlaps(best[stays], boxes[left], offset) > threshold
            left = left[~over.any(0)]
    return torch.cat(kept)


def _settle(above: Tensor) -> Tensor:
    """Which of a block stay; ``above[i, j]``: i overlaps j too much.

    Each turn settles at least one more box: the first that is not settled
    depends on settled ones alone. Few turns are needed, as chains are short.
    """
    above = above.triu(1)
    stays = ~above.any(0)
    while True:
        again = ~(above & stays[:, None]).any(0)
        if torch.equal(again, stays):
            return stays
        stays = again
