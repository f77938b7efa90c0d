# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let torch's fusion of a batch norm into a convolution refuse our layers.

torch, all versions: ``fuse_conv_bn_eval`` reads running statistics by name
and never asks what kind of layer has them. SN has them and uses them with
weight 1/3 or so: the fused convolution computes something else.
"""

from __future__ import annotations

import functools
import sys

from torch import nn
from torch.nn.utils import fusion

from sn_mm.layers import RowNorm

_NAMES = ('fuse_conv_bn_eval', 'fuse_linear_bn_eval')


def refuse_fusion() -> None:
    """Wrap torch's functions, once, also where they were imported by name."""
    for name in _NAMES:
        original = getattr(fusion, name, None)
        if original is None or hasattr(original, '_sn_mm_refuses'):
            continue
        refusing = _refusing(original)
        for module in list(sys.modules.values()):
            if getattr(module, '__dict__', {}).get(name) is original:
                setattr(module, name, refusing)


def _refusing(original):
    @functools.wraps(original)
    def fuse(layer: nn.Module, bn: nn.Module, *args, **kwargs):
        if isinstance(bn, RowNorm):
            raise TypeError(
                f'{original.__name__} fuses batch norms, and '
                f'{type(bn).__name__} is none: the fused layer would compute '
                'something else. Use sn_mm.fold(model), which folds what can '
                'be folded (docs/folding.md)'
            )
        return original(layer, bn, *args, **kwargs)

    fuse._sn_mm_refuses = True
    return fuse
