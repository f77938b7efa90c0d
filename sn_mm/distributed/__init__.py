# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whose batches count together, and how processes share what they saw."""

from .groups import SyncGroup, named_group, world_size

__all__ = ['SyncGroup', 'named_group', 'world_size']
