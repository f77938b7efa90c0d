# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Classes of the toolboxes, with a mixin of ours in front."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable

from torch import nn

TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')


def derived(mixin: type, base: type, name: str | None = None) -> type:
    """The class (mixin, base), the same one each time.

    Args:
        name: of the class; by default that of ``base``.
    """
    return _made(mixin, base, name or base.__name__)


@functools.cache
def _made(mixin: type, base: type, name: str) -> type:
    body = dict(
        __module__=mixin.__module__,
        __doc__=mixin.__doc__,
        __reduce__=functools.partialmethod(_reduced, mixin, base, name),
    )
    return type(name, (mixin, base), body)


def _reduced(module: nn.Module, *recipe) -> tuple:
    """How pickle and copy make the module again: no file has its class."""
    return _new, recipe, module.__dict__


def _new(*recipe) -> nn.Module:
    cls = derived(*recipe)
    return cls.__new__(cls)


def register(
    name: str,
    mixin: type,
    base: str = 'ResNet',
    toolboxes: Iterable[str] = TOOLBOXES,
) -> None:
    """Register a mixin's backbone in the toolboxes that can be imported.

    Args:
        name: what configs call it.
        base: the toolbox's backbone that it derives from; a toolbox without
            such is passed over.
    """
    for toolbox in toolboxes:
        try:
            backbones = importlib.import_module(f'{toolbox}.models.backbones')
            registry = importlib.import_module(f'{toolbox}.registry').MODELS
        except (ImportError, AssertionError):  # absent, or another version
            continue
        if hasattr(backbones, base):
            cls = derived(mixin, getattr(backbones, base), name)
            registry.register_module(name=name, module=cls, force=True)
