# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Modules that can make one convolution of themselves and their norms.

Such methods (RepVGG's ``switch_to_deploy`` and what others call it) read
running statistics by name and never ask what kind of layer has them. With a
norm of ours the convolution computes something else.
"""

from __future__ import annotations

import inspect
import warnings
from weakref import WeakSet

from torch import nn

from sn_mm.layers import RowNorm

# of RepVGG, MobileOne, RepLKNet, RepMLP and LeViT; of timm's; of RepLKNet
_METHODS = ('switch_to_deploy', 'reparameterize', 'merge_kernel')
# A word for many things: where a norm is a child it is meant so, as in LeViT.
_FUSE = 'fuse'
# of which somebody was warned
_TOLD: WeakSet[nn.Module] = WeakSet()


def deployments(model: nn.Module) -> dict[str, str]:
    """The first such method of each module that has norms of ours inside.

    Args:
        model: any model.

    Returns:
        Names of methods by names of modules.
    """
    found = {}
    for name, module in model.named_modules():
        inside = any(isinstance(m, RowNorm) for m in module.modules())
        methods = [m for m in _METHODS if _has(module, m)]
        if _has(module, _FUSE) and _is_alone(getattr(module, _FUSE)):
            if any(isinstance(m, RowNorm) for m in module.children()):
                methods.append(_FUSE)
        if inside and methods:
            found[name] = methods[0]
    return found


def deployment_text(found: dict[str, str]) -> str:
    """The sentence about what :func:`deployments` found."""
    methods = ', '.join(dict.fromkeys(found.values()))
    return (
        f'{methods} of {len(found)} modules ({next(iter(found))!r}, ...) '
        'takes every norm for a batch norm and computes something else with '
        'SN: never call it, or leave batch norms in these modules '
        '(exclude=... of convert_norm); see docs/folding.md'
    )


def warn_of_deployment(model: nn.Module) -> None:
    """One warning for the modules of which there was none yet."""
    modules = dict(model.named_modules())
    found = {
        name: method
        for name, method in deployments(model).items()
        if modules[name] not in _TOLD
    }
    if found:
        _TOLD.update(modules[name] for name in found)
        warnings.warn(deployment_text(found), stacklevel=3)


def _has(module: nn.Module, method: str) -> bool:
    return callable(getattr(module, method, None))


def _is_alone(method) -> bool:
    """Whether a bound method takes nothing else: it is no fusion of maps."""
    try:
        return not inspect.signature(method).parameters
    except (TypeError, ValueError):
        return False
