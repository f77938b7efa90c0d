# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Operators of torchvision, where it can be imported."""

from __future__ import annotations

import functools

import torch


@functools.cache
def torchvision_ops(name: str):
    """``torch.ops.torchvision`` if it has an operator of that name.

    A torchvision made for another PyTorch, or whose compiled part does not
    load, counts as none: it is not needed.
    """
    try:
        import torchvision  # noqa: F401  (loads the operators)
    except Exception:
        return None
    library = torch.ops.torchvision
    return library if hasattr(library, name) else None
