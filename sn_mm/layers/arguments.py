# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checks of constructor arguments, each with the fix in its error."""

from __future__ import annotations

from collections.abc import Sequence

from sn_mm.utils import check_count


def check_divides(name: str, value: int, num_features: int) -> None:
    """Raise unless ``value`` is a divisor of the number of channels."""
    check_count(name, value)
    if num_features % value:
        raise ValueError(
            f'{name}={value} does not divide num_features={num_features}; '
            f'choose a divisor of {num_features}'
        )


def check_names(
    argument: str, names: Sequence[str], allowed: Sequence[str]
) -> tuple[str, ...]:
    """Distinct names out of those that are allowed, as a tuple."""
    choices = ', '.join(map(repr, allowed))
    what = argument.rstrip('s')
    if isinstance(names, str) or not isinstance(names, (list, tuple)):
        raise TypeError(
            f'{argument} must be a tuple or list of names out of {choices}, '
            f'got {names!r}'
        )
    if not names:
        raise ValueError(
            f'{argument} is empty; name at least one of {choices}'
        )
    for name in names:
        if name not in allowed:
            raise ValueError(
                f'unknown {what} {name!r} in {names!r}; choose from {choices}'
            )
    if len(set(names)) != len(names):
        raise ValueError(f'duplicate {what} in {names!r}; name each one once')
    return tuple(names)
