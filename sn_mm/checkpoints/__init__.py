# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Public SN checkpoints and BN checkpoints, as starting points of SN models.

Importing this package registers ``sn://`` and ``bn2sn://`` in mmengine.
"""

from sn_mm.utils.errors import CheckpointError

from .load import load_pretrained, read_bn_state
from .report import Report
from .schemes import load_bn, load_sn

__all__ = [
    'CheckpointError',
    'Report',
    'load_bn',
    'load_pretrained',
    'load_sn',
    'read_bn_state',
]
