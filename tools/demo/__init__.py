# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Demo data: handwritten digits hidden in cluttered pictures.

``tools/make_demo_data.py`` is the command line over this package. Nothing
here is imported by ``import sn_mm``; the modules that need scikit-learn and
OpenCV are imported by the code that uses them.
"""

from .metainfo import CITYSCAPES_METAINFO, METAINFO

__all__ = ['CITYSCAPES_METAINFO', 'METAINFO']
