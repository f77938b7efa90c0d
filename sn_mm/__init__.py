# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization for OpenMMLab: importing registers everything."""

from . import datasets, hooks, patches  # noqa: F401
from .anatomy import find_norms
from .checkpoints import load_pretrained
from .layers import SSN, SN1d, SN2d, SN3d, SyncSN, SyncSSN
from .recalibrate import update_batch_average
from .surgery import convert_norm, fold, harden
from .version import __version__

SN = SN2d

patches.apply()

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
    'find_norms',
    'fold',
    'harden',
    'load_pretrained',
    'update_batch_average',
]
