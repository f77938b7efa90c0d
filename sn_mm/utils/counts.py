# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Arguments that count something."""

from __future__ import annotations


def check_count(name: str, value: int) -> None:
    """Check that an argument is an integer of at least 1.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        TypeError: for anything but an int; True and False are none.
        ValueError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f'{name} must be an int, got {value!r}')
    if value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}')
