# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Changes to the norm layers of models that are already built."""

from .convert_norm import convert_norm
from .fold import fold, fold_with_report
from .fuse_relu import fuse_relu
from .harden import harden
from .share_lstm import share_lstm

__all__ = [
    'convert_norm',
    'fold',
    'fold_with_report',
    'fuse_relu',
    'harden',
    'share_lstm',
]
