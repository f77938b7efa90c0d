# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The normalization layers: importing this package registers them."""

from .attentive import AN, SyncAN
from .base import RowNorm
from .batch_group import BGN, SyncBGN
from .dynamic import DN, SyncDN
from .exemplar import EN, SyncEN
from .filter_response import FRN
from .ghost import GhostBN
from .hyper import BHN, SyncBHN
from .ibn import IBN, SyncIBN
from .instance_enhancement import IEBN, SyncIEBN
from .instance_level_meta import ILM
from .kalman import KN, SyncKN
from .population import PN
from .renorm import BRN, SyncBRN
from .sparse import SSN, SyncSSN
from .switchable import SN1d, SN2d, SN3d
from .sync import Synchronized, SyncSN, SyncSN1d, SyncSN3d

__all__ = [
    'AN',
    'BGN',
    'BHN',
    'BRN',
    'DN',
    'EN',
    'FRN',
    'GhostBN',
    'IBN',
    'IEBN',
    'ILM',
    'KN',
    'PN',
    'RowNorm',
    'SN1d',
    'SN2d',
    'SN3d',
    'SSN',
    'SyncAN',
    'SyncBGN',
    'SyncBHN',
    'SyncBRN',
    'SyncDN',
    'SyncEN',
    'SyncIBN',
    'SyncIEBN',
    'SyncKN',
    'SyncSN',
    'SyncSN1d',
    'SyncSN3d',
    'SyncSSN',
    'Synchronized',
]
