# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Anchors whose cells are rounded before they are scaled."""

from __future__ import annotations

import torch
from mmdet.models.task_modules import AnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class DetectronAnchorGenerator(AnchorGenerator):
    """The public detection code's anchors.

    A cell of base size b and ratio r (height / width) is w = round(b /
    sqrt(r)) wide and h = round(w r) high, rounded half to even. Scales
    multiply these integers. Boxes include their last pixel and are centred
    at (b - 1) / 2.

    Args:
        strides, ratios, scales, base_sizes: as for mmdet's AnchorGenerator.
    """

    def gen_single_level_base_anchors(
        self,
        base_size: int,
        scales: Tensor,
        ratios: Tensor,
        center: tuple[float, float] | None = None,
    ) -> Tensor:
        """Anchors of one cell, ratio outer and scale inner, (A, 4)."""
        if center is None:
            center = ((base_size - 1) / 2, (base_size - 1) / 2)
        w = torch.round(base_size / ratios.double().sqrt())
        h = torch.round(w * ratios)
        sides = torch.stack([w, h], dim=1)
        if self.scale_major:
            sides = sides[:, None] * scales[None, :, None]
        else:
            sides = sides[None] * scales[:, None, None]
        half = (sides.reshape(-1, 2) - 1) / 2
        middle = half.new_tensor(center)
        return torch.cat([middle - half, middle + half], dim=1).float()
