# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Hooks of mmengine's Runner: importing this package registers them."""

from .batch_average_hook import BatchAverageHook
from .population_hook import PopulationHook
from .radius_hook import RadiusHook
from .ratio_hook import RatioHook

__all__ = ['BatchAverageHook', 'PopulationHook', 'RadiusHook', 'RatioHook']
