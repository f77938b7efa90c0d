# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The one exception that reading, converting and loading raise."""

from __future__ import annotations

from collections.abc import Iterable

from sn_mm.utils.errors import CheckpointError

__all__ = ['CheckpointError', 'listed']


def listed(names: Iterable[str], limit: int = 6) -> str:
    """``a, b, c and 7 more``."""
    names = list(names)
    text = ', '.join(names[:limit])
    more = len(names) - limit
    return f'{text} and {more} more' if more > 0 else text
