# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the fused numbers of Switchable Normalization are told of a layer."""

from __future__ import annotations

from typing import Callable, NamedTuple

from torch import Tensor

# what a process has of the batch, to what all have: both ways alike
Exchange = Callable[[Tensor], Tensor]


class Switch(NamedTuple):
    """A mixture of statistics.

    Attributes:
        statistics: distinct names out of 'in', 'ln', 'bn', 'gn', in the
            order of the ratios.
        num_groups: channel groups of 'gn'.
        softmax: whether ratios are the softmax of the weights, or the
            weights themselves.
        bessel: by which the rows' own variance is multiplied first.
        drop_instance: rows have a single position, so that 'in' carries no
            information and gets no ratio.
        eps: added to the mixed variance, inside the root.
    """

    statistics: tuple[str, ...]
    num_groups: int
    softmax: bool
    bessel: float
    drop_instance: bool
    eps: float
