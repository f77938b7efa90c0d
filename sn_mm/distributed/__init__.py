# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Process groups that a config can name, and moments pooled over them."""

from .gather import all_gather, merge_moments, pool_moments
from .groups import SyncGroup, named_group, world_size

__all__ = [
    'SyncGroup',
    'all_gather',
    'merge_moments',
    'named_group',
    'pool_moments',
    'world_size',
]
