# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What one norm hands to the next, beside the features between them.

A layer that takes or leaves more than its input and output does so in a
:class:`Relay`, which exists for one call: nothing of the graph stays in the
layer, and hooks, copies and scripts see an ordinary norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Relay:
    """Attributes: given, to the layer in this call; left, by the layer."""

    def __init__(self, given: Any = None) -> None:
        self.given, self.left = given, None


@contextmanager
def relaying(module: nn.Module, given: Any = None) -> Iterator[Relay]:
    """While it lasts, ``module.relay`` is a relay for the module's call.

    Args:
        module: with an attribute ``relay``, which is None otherwise.
        given: what it is to find there.
    """
    before = module.relay
    relay = module.relay = Relay(given)
    try:
        yield relay
    finally:  # whatever ends the call, a checkpoint's early stop too
        module.relay = before
