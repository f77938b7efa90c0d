# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Layers whose ratios are those of a new layer, and stay so."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from sn_mm.layers import RowNorm
from sn_mm.layers.hard import RATIO_PARAMETERS


def untrained_for_good(
    model: nn.Module, moved: Collection[nn.Parameter] | None = None
) -> list[str]:
    """Names of layers with equal ratios that training cannot change.

    Equal ratios are what a layer starts with. Frozen ones, those that no
    optimizer moves, and hard ones that have nothing to choose by, keep them.

    Args:
        model: any model.
        moved: what an optimizer moves, see :func:`moved_by`; by default all.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, RowNorm) and _is_stuck(module, moved)
    ]


def moved_by(optim_wrapper: Any, model: nn.Module) -> set | None:
    """Parameters that an optimizer has, at a learning rate above 0.

    Args:
        optim_wrapper: of mmengine, one or several in one; or an optimizer.
        model: whose parameters it optimizes.

    Returns:
        None where it has not one of them, but others that are made of them:
        FSDP's and DeepSpeed's.
    """
    wrappers = getattr(optim_wrapper, 'optim_wrappers', {'': optim_wrapper})
    groups = [g for w in wrappers.values() for g in w.param_groups]
    own = set(model.parameters())
    if not any(p in own for group in groups for p in group['params']):
        return None
    return {
        p
        for group in groups
        # a schedule may begin at 0
        if group.get('initial_lr', group.get('lr', 1)) != 0
        for p in group['params']
    }


def _is_stuck(layer: RowNorm, moved: Collection[nn.Parameter] | None) -> bool:
    weights = [getattr(layer, name, None) for name in RATIO_PARAMETERS]
    return any(
        w is not None
        and w.shape[-1] > 1
        and not isinstance(w, nn.parameter.UninitializedParameter)
        and not (w.requires_grad and (moved is None or w in moved))
        and _all_equal(w)
        for w in weights
    )


def _all_equal(weight: Tensor) -> bool:
    return not weight.is_meta and bool((weight == weight[..., :1]).all())
