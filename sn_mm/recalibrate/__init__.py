# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is measured on training batches: statistics, and gamma decay."""

from .batch_average import BatchAverage, find_averaged, update_batch_average
from .gamma_decay import gamma_decay, measured_zeta

__all__ = [
    'BatchAverage',
    'find_averaged',
    'gamma_decay',
    'measured_zeta',
    'update_batch_average',
]
