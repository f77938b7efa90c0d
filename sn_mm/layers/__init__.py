# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The normalization layers: importing this package registers them."""

from .base import RowNorm
from .dynamic import DN, SyncDN
from .exemplar import EN, SyncEN
from .hyper import BHN, SyncBHN
from .ibn import IBN, SyncIBN
from .kalman import KN, SyncKN
from .population import PN
from .renorm import BRN, SyncBRN
from .sparse import SSN, SyncSSN
from .switchable import SN1d, SN2d, SN3d
from .sync import Synchronized, SyncSN, SyncSN1d, SyncSN3d

__all__ = [
    'BHN',
    'BRN',
    'IBN',
    'DN',
    'EN',
    'KN',
    'PN',
    'RowNorm',
    'SN1d',
    'SN2d',
    'SN3d',
    'SSN',
    'SyncBRN',
    'SyncIBN',
    'SyncDN',
    'SyncBHN',
    'SyncEN',
    'SyncKN',
    'SyncSN',
    'SyncSN1d',
    'SyncSN3d',
    'SyncSSN',
    'Synchronized',
]
