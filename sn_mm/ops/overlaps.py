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
    x1, y1, x2, y2 = one.t()[:, :, None]
    u1, v1, u2, v2 = other.t().contiguous()
    both = _length(torch.maximum(x1, u1), torch.minimum(x2, u2), offset)
    both *= _length(torch.maximum(y1, v1), torch.minimum(y2, v2), offset)
    union = _area(one, offset)[:, None] + _area(other, offset)
    return both.div_(union.sub_(both))


def _length(low: Tensor, high: Tensor, offset: int) -> Tensor:
    length = high.sub_(low)
    if offset:
        length += offset
    return length.clamp_(min=0)


def _area(boxes: Tensor, offset: int) -> Tensor:
    width, height = (boxes[:, 2:] - boxes[:, :2] + offset).unbind(-1)
    return width * height
