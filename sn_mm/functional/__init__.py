# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a normalizer is: rules over moments, and one function for all."""

from . import statistics
from .reference import switchable_norm_reference
from .rows import normalize_rows
from .switch import STATISTICS, SwitchRule
from .switch_numbers import SwitchNumbers

__all__ = [
    'STATISTICS',
    'SwitchNumbers',
    'SwitchRule',
    'normalize_rows',
    'statistics',
    'switchable_norm_reference',
]
