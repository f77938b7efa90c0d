# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Between a rule and the sweeps, in PyTorch's operations on any device.

A rule speaks of float64 numbers that broadcast to (N, C): y = scale * (x -
centre) + bias. Sweeps take float32 factors of every row, about ``near``, the
row's mean as they get it.
"""

from __future__ import annotations

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor, Tensor]


def of_output(
    moments: Tensor,
    centre: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> Factors:
    """Factors of y = scale * (x - near) + shift.

    Args:
        moments: (2, N, C), means and biased variances of the rows.
        centre, scale, bias: a rule's, of moments' dtype, which broadcast to
            (N, C).
        dtype: of the factors.

    Returns:
        near, scale and shift, (N, C).
    """
    near = _near(moments, dtype)
    shift = torch.addcmul(bias, scale, centre - near, value=-1)
    return _narrow(moments, dtype, near, scale, shift)


def cotangents(
    moments: Tensor,
    sums: Tensor,
    centre: Tensor,
    scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss's gradients by what a rule returned.

    Args:
        sums: (2, N, C), sum(dy) and sum(dy * (x - near)) of the rows.
        others: as for :func:`of_output`.

    Returns:
        d_centre, d_scale and d_bias, each shaped as what it is of.
    """
    s0, s1 = sums
    near = _near(moments, dtype)
    d_centre = -(scale * s0)
    d_scale = torch.addcmul(s1, centre - near, s0, value=-1)
    return (
        d_centre.sum_to_size(centre.shape),
        d_scale.sum_to_size(scale.shape),
        s0.sum_to_size(bias.shape),
    )


def of_gradient(
    moments: Tensor,
    scale: Tensor,
    d_moments: Tensor | None,
    size: int,
    dtype: torch.dtype,
) -> Factors:
    """Factors of dx = scale * dy + slope * (x - near) + shift.

    Args:
        moments, scale, dtype: as for :func:`of_output`.
        d_moments: (2, N, C), the loss's gradients by the moments, as far as
            they come through the rule; None stands for zeros.
        size: S, positions of a row.

    Returns:
        scale, slope and shift, (N, C).
    """
    if d_moments is None:
        zeros = torch.zeros_like(moments[0])
        return _narrow(moments, dtype, scale, zeros, zeros)
    dm, dv = d_moments / max(size, 1)
    slope = 2 * dv
    # of the rows' means themselves, not of the rounded ones
    error = _near(moments, dtype) - moments[0]
    shift = torch.addcmul(dm, slope, error)
    return _narrow(moments, dtype, scale, slope, shift)


def _near(moments: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows' means as the sweeps get them."""
    return moments[0].to(dtype).to(moments.dtype)


def _narrow(moments: Tensor, dtype: torch.dtype, *factors: Tensor) -> Factors:
    shape = (len(factors), *moments.shape[1:])
    narrow = moments.new_empty(shape, dtype=dtype).unbind()
    for own, t in zip(narrow, factors):
        own.copy_(t)  # rounded and broadcast at once
    return narrow
