# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Statistics for test time, computed anew from training batches."""

from .batch_average import BatchAverage, find_averaged, update_batch_average

__all__ = ['BatchAverage', 'find_averaged', 'update_batch_average']
