# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sweeps over the rows of an input, in PyTorch, in C and in Triton.

A row is one (n, c) of x (N, C, *spatial). Four sweeps are all that a
normalizer of this family does with x, and what is here knows nothing else;
what is normalized with is said in :mod:`sn_mm.functional`. An implementation
is a module of

``moments(x)``
    mean and biased variance of every row;
``affine(x, near, scale, shift)``
    y = scale * (x - near) + shift;
``products(dy, x, near)``
    sum(dy) and sum(dy * (x - near)) of every row;
``combine(dy, x, scale, near, slope, shift)``
    dx = scale * dy + slope * (x - near) + shift;
``remeasure(dy, x)``
    moments and products at once, for rows too short to keep moments of;
``why_not(x)``
    None, or why it cannot take x;
``factors``
    what turns a rule's results into near, scale, slope and shift, see
    :mod:`sn_mm.kernels.factors`.

``near`` is the row's own mean as it is stored, so that x - near does not
cancel. :mod:`sn_mm.kernels.aten` documents shapes and dtypes.
"""

from __future__ import annotations

from . import factors
from .choice import Backends, backends, check_name, choose

__all__ = ['Backends', 'backends', 'check_name', 'choose', 'factors']
