# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The normalization layers: importing this package registers them."""

from .base import RowNorm
from .ibn import IBN, SyncIBN
from .kalman import KN, SyncKN
from .renorm import BRN, SyncBRN
from .sparse import SSN, SyncSSN
from .switchable import SN1d, SN2d, SN3d
from .sync import Synchronized, SyncSN, SyncSN1d, SyncSN3d

__all__ = [
    'BRN',
    'IBN',
    'KN',
    'RowNorm',
    'SN1d',
    'SN2d',
    'SN3d',
    'SSN',
    'SyncBRN',
    'SyncIBN',
    'SyncKN',
    'SyncSN',
    'SyncSN1d',
    'SyncSN3d',
    'SyncSSN',
    'Synchronized',
]
