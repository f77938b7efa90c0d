# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Changes to the normalization of models that are already built."""

from .convert_norm import convert_norm
from .fold import fold, fold_with_report
from .fuse_relu import fuse_relu
from .harden import harden
from .share_lstm import share_lstm
from .weight_norms import normalize_weights

__all__ = [
    'convert_norm',
    'fold',
    'fold_with_report',
    'fuse_relu',
    'harden',
    'normalize_weights',
    'share_lstm',
]
