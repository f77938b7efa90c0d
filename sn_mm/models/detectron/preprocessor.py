# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Test images that end where their padding ends."""

from __future__ import annotations

from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS


@MODELS.register_module()
class DetectronDataPreprocessor(DetDataPreprocessor):
    """mmdet's DetDataPreprocessor with the public code's test image size.

    Proposals are clipped to the padded image there, which ``img_shape`` says
    in testing. Pixels are normalized before they are padded with zeros.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """See the base class."""
        data = super().forward(data, training)
        if not training:
            for sample in data['data_samples'] or ():
                sample.set_metainfo(dict(img_shape=sample.pad_shape))
        return data
