# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Snapshots of layers that are made up."""

import numpy as np

from sn_mm.analysis.snapshots import Snapshot
from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import LayerRatios

NAMES = ('in', 'ln', 'bn')
FIRM, TIED = (0.6, 0.3, 0.1), (1 / 3, 1 / 3, 1 / 3)
NARROW = (0.33, 0.33, 0.34)
CLEAR = (0.3, 0.3, 0.4)


def snapshot(*pairs, iteration=0, components=None, stages=None):
    """A layer of three statistics for each (mean, var)."""
    count = len(pairs)
    layers = [
        LayerInfo(f'layer{i}', component, stage, '3x3', NAMES, 11.0)
        for i, component, stage in zip(
            range(count),
            components or ['backbone'] * count,
            stages or ['res2'] * count,
        )
    ]
    ratios = [
        LayerRatios(layer.name, NAMES, *(np.array([r]) for r in pair))
        for layer, pair in zip(layers, pairs)
    ]
    return Snapshot(f'at {iteration}', layers, ratios, iteration)
