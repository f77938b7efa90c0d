# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Changes to models that are already built."""

from .convert_norm import convert_norm
from .norms import find_norms

__all__ = ['convert_norm', 'find_norms']
