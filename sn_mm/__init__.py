# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization for OpenMMLab: importing registers everything."""

import sn_mm_ops

from . import datasets, hooks, toolbox  # noqa: F401
from .checkpoints import load_pretrained
from .layers import SSN, SN1d, SN2d, SN3d, SyncSN, SyncSSN
from .surgery import convert_norm, fold, harden, update_batch_average
from .version import __version__

sn_mm_ops.serve()

SN = SN2d

__all__ = [
    'SN',
    'SN1d',
    'SN2d',
    'SN3d',
    'SSN',
    'SyncSN',
    'SyncSSN',
    '__version__',
    'convert_norm',
    'fold',
    'harden',
    'load_pretrained',
    'update_batch_average',
]
