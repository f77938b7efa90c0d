# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Layers in models that torch.jit.script compiles."""

from __future__ import annotations

import typing
from typing import Callable

import torch


def called_from_script(forward: Callable) -> Callable:
    """Let a scripted model call a layer's forward in Python.

    It has to be told the types themselves: it does not read annotations that
    are strings.
    """
    forward.__annotations__ = typing.get_type_hints(forward)
    return torch.jit.ignore(forward)
