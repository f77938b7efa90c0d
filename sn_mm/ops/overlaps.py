# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Overlaps of boxes, in mmcv's arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(one: Tensor, other: Tensor, offset: int) -> Tensor:
    """Intersection over union of every two boxes.

    Args:
        one: (N, 4), corners x1, y1, x2, y2.
        other: (M, 4).
        offset: 0, or 1 where corners are pixels that belong to the box: a
            width then is x2 - x1 + 1.

    Returns:
        (N, M); NaN of two boxes without area.
    """
    low = torch.maximum(one[:, None, :2], other[:, :2])
    high = torch.minimum(one[:, None, 2:], other[:, 2:])
    width, height = (high.sub_(low) + offset).clamp_(min=0).unbind(-1)
    both = width * height
    return both / (_area(one, offset)[:, None] + _area(other, offset) - both)


def _area(boxes: Tensor, offset: int) -> Tensor:
    width, height = (boxes[:, 2:] - boxes[:, :2] + offset).unbind(-1)
    return width * height
