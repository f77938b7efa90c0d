# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Who computes a normalizer's forward and backward.

An engine is a module of two functions:

``forward(x, weight, bias, eps, mixing, params)`` returns y, the instance
moments (or None, if they are not worth keeping) and the mixing's state.
``backward(dy, x, moments, state, weight, bias, eps, mixing, params)`` returns
the gradients of x, of weight, of bias, and a list of the params'.

``plain`` takes any mixing on any device; ``native`` and ``gpu`` Switchable
Normalization on a CPU and on a GPU.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from ..mixing import Mixing
from . import gpu, native, plain

__all__ = ['engine_for']


def engine_for(x: Tensor, mixing: Mixing) -> ModuleType:
    """The fastest engine for this input (N, C, *spatial)."""
    for engine in (gpu, native):
        if engine.takes(x, mixing):
            return engine
    return plain
