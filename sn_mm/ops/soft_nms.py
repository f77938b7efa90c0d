# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Soft non-maximum suppression (Bodla et al., Soft-NMS, Sec. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .overlaps import overlaps

_HARD, _LINEAR = 0, 1  # else Gaussian


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap better ones.

    Args:
        boxes: (N, 4), corners.
        scores: (N,).
        dets: (N, 5); its first rows are filled with the boxes that stay and
            their lowered scores, best first.
        iou_threshold: overlap from which on scores are lowered (methods 0
            and 1).
        sigma: of the Gaussian (method 2).
        min_score: a box whose lowered score is less goes.
        method: 0 for a score of 0, 1 for linear, 2 for Gaussian lowering.
        offset: see :func:`~.overlaps.overlaps`.

    Returns:
        Indices of the boxes that stay, in the order of ``dets``.
    """
    boxes, scores = boxes.float(), scores.float().clone()
    left = torch.arange(len(boxes))
    kept = []
    while len(left):
        best = scores[left].argmax()
        index = left[best]
        dets[len(kept), :4] = boxes[index]
        dets[len(kept), 4] = scores[index]
        kept.append(index)
        left = torch.cat((left[:best], left[best + 1 :]))
        # two boxes without area do not overlap
        overlap = overlaps(boxes[index][None], boxes[left], offset)[0]
        overlap = overlap.nan_to_num(0)
        scores[left] *= _factors(overlap, iou_threshold, sigma, method)
        left = left[~(scores[left] < min_score)]
    return torch.stack(kept) if kept else left


def _factors(overlap, iou_threshold: float, sigma: float, method: int):
    """What scores are multiplied by."""
    if method not in (_HARD, _LINEAR):
        return torch.exp(-(overlap**2) / sigma)
    lowered = 1 - overlap if method == _LINEAR else torch.zeros_like(overlap)
    return torch.where(overlap >= iou_threshold, lowered, 1.0)
