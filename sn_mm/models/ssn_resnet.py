# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The stem of the public SSN ResNets, for the toolboxes that are there."""

from __future__ import annotations

from torch import nn

from .derived import register


class CeilPool:
    """The toolbox's ResNet with a stem that pools without padding.

    It rounds up: the output is as large as with the usual padding of 1, its
    windows lie one pixel further to the right and to the bottom.
    """

    def _make_stem_layer(self, *args, **kwargs) -> None:
        super()._make_stem_layer(*args, **kwargs)
        self.maxpool = nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)


register('SSNResNet', CeilPool)
