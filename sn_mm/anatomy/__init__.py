# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What one can see of a model without changing it.

Norm layers, the components of a model, example inputs, where a norm's values
come from, and the ratios of its SN layers. Surgery and analysis both stand on
this package and know nothing of each other.
"""

from .norms import find_norms
from .ratios import LayerRatios, ratios_of_model, ratios_of_state

__all__ = [
    'LayerRatios',
    'find_norms',
    'ratios_of_model',
    'ratios_of_state',
]
