# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The names under which configs find the layers."""

from __future__ import annotations

from typing import Callable

from mmengine.registry import MODELS


def register_norm(*names: str) -> Callable[[type], type]:
    """Register a layer in mmengine's root registry, for every toolbox.

    The first name becomes the layer's ``norm_type``.

    Args:
        names: what ``norm_cfg=dict(type=...)`` calls it; the last one is
            nobody else's.

    Raises:
        ImportError: if another package has registered one of them.
    """

    def register(cls: type) -> type:
        for name in names:
            other = MODELS.module_dict.get(name)
            if other is not None and _path(other) != _path(cls):
                raise ImportError(
                    f'{name!r} is already registered as a norm, by the class '
                    f'{_path(other)}: import that or sn_mm, not both. sn_mm '
                    f'calls its own layer {names[-1]!r} too'
                )
        MODELS.register_module(name=list(names), module=cls, force=True)
        cls.norm_type = names[0]
        return cls

    return register


def _path(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'
