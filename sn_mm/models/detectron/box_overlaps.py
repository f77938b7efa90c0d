# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""IoU of boxes that include their last pixel."""

from __future__ import annotations

from mmdet.models.task_modules import BboxOverlaps2D
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor


@TASK_UTILS.register_module()
class DetectronOverlaps2D(BboxOverlaps2D):
    """mmdet's BboxOverlaps2D on boxes that are x2 - x1 + 1 wide."""

    def __call__(
        self, bboxes1, bboxes2, mode: str = 'iou', is_aligned: bool = False
    ) -> Tensor:
        """(M, N) overlaps of (M, 4) and (N, 4) boxes; (M,) if aligned."""
        return super().__call__(
            _exclusive(bboxes1), _exclusive(bboxes2), mode, is_aligned
        )


def _exclusive(boxes) -> Tensor:
    boxes = get_box_tensor(boxes)[:, :4]
    return boxes + boxes.new_tensor([0, 0, 1, 1])
