# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Pure functions: passes over memory, mixings, and the oracle."""

from .mixing import Mixing
from .normalize import normalize
from .reference import switchable_norm_reference
from .statistics import STATISTICS, make_statistics
from .switch import SwitchMixing

__all__ = [
    'STATISTICS',
    'Mixing',
    'SwitchMixing',
    'make_statistics',
    'normalize',
    'switchable_norm_reference',
]
