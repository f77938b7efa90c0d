# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Layers that belong to certain places, and are told where they stand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

from torch import nn


class Placement:
    """The one-time notice of a norm that ``norm_cfg`` alone misplaces.

    Args:
        text: where the norm belongs, and what puts it there.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._is_placed = False
        self._misplaced: WeakSet[nn.Module] = WeakSet()

    def tell_once(self, layer: nn.Module) -> None:
        """Warn of a new layer, but not of a second one of the same model.

        Which model a layer is made for cannot be known: none is spoken of
        as long as one that was is alive.
        """
        if self._is_placed:
            return
        if not self._misplaced:
            warnings.warn(self.text, stacklevel=4)
        self._misplaced.add(layer)

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Layers made inside stand where they belong."""
        before, self._is_placed = self._is_placed, True
        try:
            yield
        finally:
            self._is_placed = before
