# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Figures of the paper's kinds; matplotlib is imported here alone."""

from .by_component import draw_components
from .by_layer import draw_layers
from .hard_choices import draw_hard
from .over_time import draw_time
from .style import save

__all__ = [
    'draw_components',
    'draw_hard',
    'draw_layers',
    'draw_time',
    'save',
]
