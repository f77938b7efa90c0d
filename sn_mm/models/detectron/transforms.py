# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Resizing and boxes as in the public detection code."""

from __future__ import annotations

import cv2
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import autocast_box_type


@TRANSFORMS.register_module()
class DetectronResize(Resize):
    """Resize by one factor, so that the shorter side gets its length.

    The longer side may not exceed its own. mmdet computes the new size
    first, and stretches by two slightly different factors. To resize before
    rounding to bytes, as the public code does, load images with
    ``to_float32=True``.

    Args:
        scale: (longest, shortest) side in pixels, in any order.
    """

    def __init__(self, scale: tuple[int, int]) -> None:
        super().__init__(scale=scale, keep_ratio=True)

    def _resize_img(self, results: dict) -> None:
        image = results['img']
        longest, shortest = max(results['scale']), min(results['scale'])
        factor = shortest / min(image.shape[:2])
        if round(factor * max(image.shape[:2])) > longest:
            factor = longest / max(image.shape[:2])
        image = cv2.resize(
            image,
            None,
            None,
            fx=factor,
            fy=factor,
            interpolation=cv2.INTER_LINEAR,
        )
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['scale_factor'] = (factor, factor)
        results['keep_ratio'] = True

    def _resize_masks(self, results: dict) -> None:
        if results.get('gt_masks') is not None:
            masks = results['gt_masks']
            results['gt_masks'] = masks.resize(results['img_shape'])


@TRANSFORMS.register_module()
class InclusiveBoxes(BaseTransform):
    """Ground-truth boxes that include their last pixel, for training.

    Goes right after LoadAnnotations, before any resizing.
    """

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Moves the ends of ``gt_bboxes`` by a pixel."""
        if results.get('gt_bboxes') is not None:
            results['gt_bboxes'].tensor[:, 2:] -= 1
        return results
