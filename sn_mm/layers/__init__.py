# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The normalization layers: importing this package registers them."""

from .sparse import SSN, SyncSSN
from .switchable import SN1d, SN2d, SN3d
from .sync import SyncSN

__all__ = ['SN1d', 'SN2d', 'SN3d', 'SSN', 'SyncSN', 'SyncSSN']
