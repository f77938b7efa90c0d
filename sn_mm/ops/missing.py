# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The error of an operator that only a compiled mmcv has."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Callable

from torch import nn


class MissingOperatorError(NotImplementedError):
    """An operator was called that the stand-in for mmcv._ext lacks."""


def missing_operator(name: str) -> Callable:
    """A function that raises :class:`MissingOperatorError` when called."""

    def call(*args, **kwargs):
        raise MissingOperatorError(
            f"mmcv's operator '{name}', which {_caller()} calls, is none of "
            'those that sn_mm offers in place of compiled ones: install an '
            'mmcv with compiled operators, for example by `pip uninstall '
            'mmcv-lite` and `pip install --no-build-isolation '
            '"mmcv>=2.0,<2.2"` (SN_MM_MMCV=compiled in front of the commands '
            'in tools/).'
        )

    call.__name__ = call.__qualname__ = name
    return call


def _caller() -> str:
    """The model that is being run, and its layer, or else the function."""
    frames = list(_frames())
    running = [frame.f_locals.get('self') for frame in frames]
    running = [m for m in running if isinstance(m, nn.Module)]
    if running:
        layer, model = (type(m).__name__ for m in (running[0], running[-1]))
        return layer if layer == model else f'{layer} in {model}'
    names = [frame.f_globals.get('__name__', '?') for frame in frames]
    for frame, name in zip(frames, names):
        if name.split('.')[0] not in ('mmcv', 'torch'):
            return f'{frame.f_code.co_name} in {name}'
    return 'mmcv'


def _frames() -> Iterator[FrameType]:
    """Who called the operator, the nearest first."""
    frame = sys._getframe(3)
    while frame is not None:
        yield frame
        frame = frame.f_back
