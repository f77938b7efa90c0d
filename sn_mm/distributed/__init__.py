# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Process groups that a config can name, and moments pooled over them."""

from .gather import merge_moments, pool_moments

__all__ = ['merge_moments', 'pool_moments']
