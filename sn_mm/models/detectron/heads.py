# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RoI heads that predict as the public detection code does.

Inside, boxes include their last pixel. What leaves the RoI head ends one
pixel later, in mmdet's coordinates, so that metrics and pictures fit: the
public code, too, writes results x2 - x1 + 1 wide.
"""

from __future__ import annotations

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import (
    BBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor


class _OriginalScale:
    """Decode in the coordinates of the image before it was resized.

    The + 1 of box widths is a pixel of the original image there: mmdet
    decodes first and then divides by the scale.
    """

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg=None,
    ) -> InstanceData:
        factor = roi.new_tensor(img_meta['scale_factor']).repeat(2)
        roi = torch.cat([roi[:, :1], roi[:, 1:] / factor], dim=1)
        results = super()._predict_by_feat_single(
            roi,
            cls_score,
            bbox_pred,
            {**img_meta, 'img_shape': img_meta['ori_shape']},
            rescale=False,
            rcnn_test_cfg=rcnn_test_cfg,
        )
        if not rescale:
            boxes = results.bboxes
            scaled = boxes.reshape(-1, 4) * factor
            results.bboxes = scaled.reshape(boxes.shape)
        return results


@MODELS.register_module()
class DetectronBBoxHead(_OriginalScale, BBoxHead):
    """mmdet's BBoxHead, predicting at the original scale."""


@MODELS.register_module()
class DetectronShared2FCBBoxHead(_OriginalScale, Shared2FCBBoxHead):
    """mmdet's Shared2FCBBoxHead, predicting at the original scale."""


@MODELS.register_module()
class DetectronShared4Conv1FCBBoxHead(_OriginalScale, Shared4Conv1FCBBoxHead):
    """mmdet's Shared4Conv1FCBBoxHead, predicting at the original scale."""


@MODELS.register_module()
class DetectronMaskHead(FCNMaskHead):
    """mmdet's FCNMaskHead for boxes that include their last pixel."""

    def _predict_by_feat_single(
        self, mask_preds: Tensor, bboxes: Tensor, *args, **kwargs
    ) -> Tensor:
        """Masks of boxes (n, 4), which then end one pixel later, in place.

        mmdet's own also rescales the boxes in place.
        """
        meta = kwargs['img_meta'] if 'img_meta' in kwargs else args[1]
        _end_later(bboxes, meta)
        return super()._predict_by_feat_single(
            mask_preds, bboxes, *args, **kwargs
        )


@MODELS.register_module()
class DetectronRoIHead(StandardRoIHead):
    """mmdet's StandardRoIHead around the heads above."""

    def predict(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: InstanceList,
        batch_data_samples: SampleList,
        rescale: bool = False,
    ) -> InstanceList:
        """Detections whose boxes end one pixel later, see above."""
        results = super().predict(
            x, rpn_results_list, batch_data_samples, rescale
        )
        if not self.with_mask:  # the mask head has done it
            for result, sample in zip(results, batch_data_samples):
                meta = {} if rescale else sample.metainfo
                _end_later(result.bboxes, meta)
        return results


def _end_later(boxes: Tensor, meta: dict) -> None:
    """Move the ends of boxes by one pixel of the original image, in place."""
    boxes[:, 2:] += boxes.new_tensor(meta.get('scale_factor', (1.0, 1.0)))
