# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The stem of the public SSN ResNets, for the toolboxes that are there."""

from __future__ import annotations

import importlib

from torch import nn

_TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')


class CeilPool:
    """A stem that pools without padding and rounds up.

    The output is as large as with the usual padding of 1, its windows lie
    one pixel further to the right and to the bottom.
    """

    def _make_stem_layer(self, *args, **kwargs) -> None:
        super()._make_stem_layer(*args, **kwargs)
        self.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)


def _register(toolbox: str) -> None:
    """SSNResNet in the registry of a toolbox, if that can be imported."""
    try:
        base = importlib.import_module(f'{toolbox}.models.backbones').ResNet
        registry = importlib.import_module(f'{toolbox}.registry').MODELS
    except (ImportError, AssertionError):  # absent, or of another version
        return
    doc = f"{toolbox}'s ResNet with the stem of the public SSN models."
    made = type('SSNResNet', (CeilPool, base), {'__doc__': doc})
    registry.register_module(name='SSNResNet', module=made)


for _toolbox in _TOOLBOXES:
    _register(_toolbox)
