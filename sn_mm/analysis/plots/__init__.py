# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Figures of the paper's kinds; matplotlib is imported here alone."""

from .components import draw_components
from .hard import draw_hard
from .layers import draw_layers
from .style import save
from .time import draw_time

__all__ = [
    'draw_components',
    'draw_hard',
    'draw_layers',
    'draw_time',
    'save',
]
