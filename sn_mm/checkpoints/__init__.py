# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Public SN checkpoints and BN checkpoints, as starting points of SN models.

Importing this package registers ``sn://`` and ``bn2sn://`` in mmengine.
"""

from .errors import CheckpointError
from .load import load_pretrained
from .report import Report
from .schemes import PretrainedSN

__all__ = ['CheckpointError', 'PretrainedSN', 'Report', 'load_pretrained']
