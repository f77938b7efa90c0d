# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The geometry of the public detection code, as parts of mmdet.

Boxes include their last pixel: a box from x1 to x2 is x2 - x1 + 1 wide, and
an image of width W ends at W - 1. The released detectors were trained so, and
lose accuracy under mmdet's continuous coordinates. Importing registers:

- DetectronAnchorGenerator, DetectronBBoxCoder, DetectronOverlaps2D;
- DetectronRoIExtractor, DetectronRoIHead, DetectronBBoxHead,
  DetectronShared2FCBBoxHead, DetectronShared4Conv1FCBBoxHead,
  DetectronMaskHead;
- DetectronResNet, DetectronDataPreprocessor;
- DetectronResize, InclusiveBoxes (transforms).
"""

from .anchors import DetectronAnchorGenerator
from .backbone import DetectronResNet
from .box_coder import DetectronBBoxCoder
from .box_overlaps import DetectronOverlaps2D
from .heads import (
    DetectronBBoxHead,
    DetectronMaskHead,
    DetectronRoIHead,
    DetectronShared2FCBBoxHead,
    DetectronShared4Conv1FCBBoxHead,
)
from .preprocessor import DetectronDataPreprocessor
from .roi_extractor import DetectronRoIExtractor
from .transforms import DetectronResize, InclusiveBoxes

__all__ = [
    'DetectronAnchorGenerator',
    'DetectronBBoxCoder',
    'DetectronBBoxHead',
    'DetectronDataPreprocessor',
    'DetectronMaskHead',
    'DetectronOverlaps2D',
    'DetectronResNet',
    'DetectronResize',
    'DetectronRoIExtractor',
    'DetectronRoIHead',
    'DetectronShared2FCBBoxHead',
    'DetectronShared4Conv1FCBBoxHead',
    'InclusiveBoxes',
]
