# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Testing as the public segmentation code does, as parts of mmseg."""

from __future__ import annotations

import mmcv
from mmcv.transforms import BaseTransform
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor


@MODELS.register_module()
class DirectFCNHead(FCNHead):
    """mmseg's FCNHead whose predictions keep the stride of the features.

    The segmentor then upsamples once, to the original image, as the public
    code does; mmseg's head upsamples to the network's input first. For
    ``test_cfg=dict(mode='whole')`` alone.
    """

    def predict_by_feat(
        self, seg_logits: Tensor, batch_img_metas: list[dict]
    ) -> Tensor:
        """The logits, (N, classes, h, w), as they are."""
        return seg_logits


@TRANSFORMS.register_module()
class ResizeToStride(BaseTransform):
    """Resize an image, in one step, to sides that the stride divides.

    The shorter side becomes ``short`` pixels and the longer one keeps the
    aspect ratio; both are then rounded up. The image is not padded.

    Args:
        short: length of the shorter side.
        divisor: of both sides.
    """

    def __init__(self, short: int, divisor: int = 8) -> None:
        self.short = short
        self.divisor = divisor

    def transform(self, results: dict) -> dict:
        """Changes 'img', 'img_shape', 'scale_factor'; labels stay."""
        height, width = results['img'].shape[:2]
        scale = self.short / min(height, width)
        new_h, new_w = (
            -(-int(side * scale) // self.divisor) * self.divisor
            for side in (height, width)
        )
        results['img'] = mmcv.imresize(results['img'], (new_w, new_h))
        results['img_shape'] = (new_h, new_w)
        results['scale_factor'] = (new_w / width, new_h / height)
        results['keep_ratio'] = False
        return results
