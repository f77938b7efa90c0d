# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RoIs that include their last pixel, and their pyramid level."""

from __future__ import annotations

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor

_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4


@MODELS.register_module()
class DetectronRoIExtractor(SingleRoIExtractor):
    """mmdet's SingleRoIExtractor with the public code's choice of level."""

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """Level (from 0 = P2) of RoIs (k, 5): batch index and box.

        floor(4 + log2(sqrt(w h) / 224 + 1e-6)), w and h with + 1 ("Feature
        Pyramid Networks for Object Detection", Eq. 1).
        """
        size = rois[:, 3:5] - rois[:, 1:3] + 1
        scale = size.prod(dim=1).sqrt()
        levels = torch.floor(
            _CANONICAL_LEVEL + torch.log2(scale / _CANONICAL_SIZE + 1e-6)
        )
        finest = int(self.featmap_strides[0]).bit_length() - 1
        return (levels - finest).clamp(min=0, max=num_levels - 1).long()
