# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization for OpenMMLab: importing registers everything."""

from . import datasets, hooks, toolbox  # noqa: F401
from .checkpoints import load_pretrained
from .kernels import backends
from .layers import SSN, RowNorm, SN1d, SN2d, SN3d, SyncSN, SyncSSN
from .surgery import convert_norm, fold, harden, update_batch_average
from .version import __version__

SN = SN2d

__all__ = [
    'RowNorm',
    'SN',
    'SN1d',
    'SN2d',
    'SN3d',
    'SSN',
    'SyncSN',
    'SyncSSN',
    '__version__',
    'backends',
    'convert_norm',
    'fold',
    'harden',
    'load_pretrained',
    'update_batch_average',
]
