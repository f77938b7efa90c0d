# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Box deltas between boxes that include their last pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmdet.models.task_modules import LegacyDeltaXYWHBBoxCoder
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import BaseBoxes, HorizontalBoxes, get_box_tensor
from torch import Tensor

_MAX_LOG_RATIO = math.log(1000 / 16)


@TASK_UTILS.register_module()
class DetectronBBoxCoder(LegacyDeltaXYWHBBoxCoder):
    """The public detection code's box coding.

    w = x2 - x1 + 1, the centre is x1 + w / 2, and a decoded box ends at
    centre + w / 2 - 1. mmdet's legacy coder encodes like this but decodes
    without the half pixel. Weights (10, 10, 5, 5) of the public code are
    ``target_stds=[.1, .1, .2, .2]``.
    """

    def decode(
        self,
        bboxes: Tensor | BaseBoxes,
        pred_bboxes: Tensor,
        max_shape: Sequence[int] | None = None,
        wh_ratio_clip: float | None = None,
    ) -> Tensor | BaseBoxes:
        """Boxes that the deltas make of ``bboxes``.

        Args:
            bboxes: (N, 4).
            pred_bboxes: (N, 4 * K) deltas (dx, dy, dw, dh).
            max_shape: (H, W); boxes are clipped to [0, W - 1] x [0, H - 1].
            wh_ratio_clip: taken for mmdet's sake; growth is limited to
                1000 / 16, shrinking is not, as in the public code.

        Returns:
            (N, 4 * K).
        """
        boxes = get_box_tensor(bboxes)
        deltas = pred_bboxes.reshape(len(boxes), -1, 4)
        deltas = deltas * deltas.new_tensor(self.stds)
        deltas = deltas + deltas.new_tensor(self.means)
        size = (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
        center = boxes[:, None, :2] + 0.5 * size
        center = center + deltas[..., :2] * size
        size = size * deltas[..., 2:].clamp(max=_MAX_LOG_RATIO).exp()
        decoded = torch.cat([center - size / 2, center + size / 2 - 1], -1)
        if max_shape is not None:
            height, width = max_shape[:2]
            limit = decoded.new_tensor([width, height, width, height]) - 1
            decoded = torch.minimum(decoded.clamp(min=0), limit)
        decoded = decoded.reshape(pred_bboxes.shape)
        return HorizontalBoxes(decoded) if self.use_box_type else decoded
