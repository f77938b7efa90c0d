# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether a config lets the radius of sparse SN grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import HOOKS
from torch import nn

from sn_mm.hooks.radius_hook import is_open, may_move_radius, sparse_layers


def frozen_radius(model: nn.Module, cfg: Mapping[str, Any]) -> list[str]:
    """One line where SSN layers will never become sparse.

    Hooks of a user's own may move the radius: with one of them nothing is
    said here, and training tells.

    Args:
        model: built from the config.
        cfg: its ``custom_hooks`` and ``default_hooks`` are looked through.
    """
    layers = [m for m in sparse_layers(model) if is_open(m)]
    hooks = [*(cfg.get('custom_hooks') or [])]
    hooks += [h for h in (cfg.get('default_hooks') or {}).values() if h]
    scope = cfg.get('default_scope')
    kinds = [_class_of(hook, scope) for hook in hooks]
    if not layers or any(k is None or may_move_radius(k) for k in kinds):
        return []
    return [
        f'nothing moves the radius of {len(layers)} SSN layers: their ratios '
        "never become sparse; add dict(type='RadiusHook') to custom_hooks "
        '(configs/_base_/ssn.py)'
    ]


def _class_of(hook: Any, scope: str | None) -> type | None:
    """The class of a hook's config; None if it is not registered here."""
    kind = hook.get('type') if isinstance(hook, Mapping) else type(hook)
    if isinstance(kind, type):
        return kind
    with HOOKS.switch_scope_and_registry(scope) as registry:
        return registry.get(kind)
