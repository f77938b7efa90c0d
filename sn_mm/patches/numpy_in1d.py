# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let Cityscapes' own evaluation run on numpy 2.4 and later.

cityscapesscripts 2.3.0, its latest release, calls ``numpy.in1d``, which numpy
2.4 dropped: mmseg's CityscapesMetric then ends in an AttributeError, after
all pictures have been predicted. The function is put back, for
environments that have cityscapesscripts.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np


def restore_in1d() -> bool:
    """Define ``numpy.in1d`` where it is gone and cityscapesscripts needs it.

    Returns:
        Whether this call defined it.
    """
    if hasattr(np, 'in1d') or find_spec('cityscapesscripts') is None:
        return False
    np.in1d = in1d
    return True


def in1d(ar1, ar2, assume_unique: bool = False, invert: bool = False):
    """What ``numpy.in1d`` was: a flat ``numpy.isin``."""
    return np.isin(
        np.ravel(ar1), ar2, assume_unique=assume_unique, invert=invert
    )
