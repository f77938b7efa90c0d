# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Long lists of names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def join_names(names: Iterable[str], limit: int = 6) -> str:
    """Join names with commas, and only count those beyond ``limit``.

    Example:
        >>> join_names(['a', 'b', 'c', 'd', 'e'], limit=2)
        'a, b and 3 more'
    """
    names = list(names)
    text = ', '.join(names[:limit])
    more = len(names) - limit
    return f'{text} and {more} more' if more > 0 else text
