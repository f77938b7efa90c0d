# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checks of constructor arguments, each with the fix in its error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence

from sn_mm.utils import check_count

# The public code's arguments, and what says the same here.
PUBLIC_ARGUMENTS = {
    'using_bn': "statistics=('in', 'ln') for using_bn=False",
    'using_moving_average': (
        'moving averages are always kept; for the batch average use '
        'BatchAverageHook or tools/batch_average.py'
    ),
    'last_gamma': 'zero_init_residual=True of the backbone',
}
_LARGE_MOMENTUM = 0.5


def refuse_public_arguments(kwargs: Mapping[str, object]) -> None:
    """Raise where an argument is the public code's, naming ours."""
    for name, ours in PUBLIC_ARGUMENTS.items():
        if name in kwargs:
            raise TypeError(
                f'{name} is an argument of the public SN code; here write '
                f'{ours}'
            )


def warn_of_momentum(momentum: float | None) -> None:
    """Warn where momentum looks like the public code's."""
    if momentum is not None and momentum > _LARGE_MOMENTUM:
        warnings.warn(
            f"momentum={momentum} is PyTorch's here, the weight of the new "
            "batch in the running statistics; the public code's 0.9 is 0.1, "
            'its 0.997 is 0.003',
            stacklevel=4,
        )


def own_eps(eps: float, default: float) -> float:
    """``eps``, or a layer's own where a config has none.

    mmcv's ``build_norm_layer`` passes 1e-5 then, which cannot be told from a
    config's own but by the config that it was called with. To be called in
    a layer's constructor.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == '__init__':
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != 'build_norm_layer':
        return eps
    cfg = frame.f_locals.get('cfg')
    given = not isinstance(cfg, Mapping) or 'eps' in cfg
    return eps if given else default


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


def check_share(name: str, value: float) -> None:
    """Raise unless ``value`` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f'{name} must be a number, got {value!r}')
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must be from 0 to 1, got {value}')
