# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Layers whose ratios are those of a new layer, and stay so."""

from __future__ import annotations

from torch import Tensor, nn

from sn_mm.layers import RowNorm
from sn_mm.layers.hard import RATIO_PARAMETERS


def untrained_for_good(model: nn.Module) -> list[str]:
    """Names of layers with equal ratios that training cannot change.

    Equal ratios are what a layer starts with. Frozen ones, and hard ones that
    have nothing to choose by, keep them.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, RowNorm) and _is_stuck(module)
    ]


def _is_stuck(layer: RowNorm) -> bool:
    weights = [getattr(layer, name, None) for name in RATIO_PARAMETERS]
    return any(
        w is not None
        and w.shape[-1] > 1
        and not isinstance(w, nn.parameter.UninitializedParameter)
        and not w.requires_grad
        and _all_equal(w)
        for w in weights
    )


def _all_equal(weight: Tensor) -> bool:
    return not weight.is_meta and bool((weight == weight[..., :1]).all())
