# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Changes to models that are already built."""

from .batch_average import BatchAverage, find_averaged, update_batch_average
from .convert_norm import convert_norm
from .fold import fold, fold_with_report
from .harden import harden

__all__ = [
    'BatchAverage',
    'convert_norm',
    'find_averaged',
    'fold',
    'fold_with_report',
    'harden',
    'update_batch_average',
]
