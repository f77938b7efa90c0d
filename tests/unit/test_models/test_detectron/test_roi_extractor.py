# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.models.detectron import DetectronRoIExtractor


def test_roi_levels(conventions):
    extractor = DetectronRoIExtractor(
        dict(type='RoIAlign', output_size=7), 8, [4, 8, 16, 32]
    )
    rois = conventions['rois']
    rois = torch.cat([rois.new_zeros(len(rois), 1), rois], dim=1)
    levels = extractor.map_roi_levels(rois, 4)
    assert torch.equal(levels + 2, conventions['roi_fpn_level'])
