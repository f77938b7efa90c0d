# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the layers of a model chose, and what a config makes of them."""

from .ratios import LayerRatios, ratios_of_model, ratios_of_state

__all__ = ['LayerRatios', 'ratios_of_model', 'ratios_of_state']
