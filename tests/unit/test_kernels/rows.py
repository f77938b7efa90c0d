# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What tests of sweeps share: inputs, and the sweeps in float64."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# For processes of their own: kernels without the rest of the package, which
# takes seconds to import.
WITHOUT_THE_REST = f"""
import sys, types
package = types.ModuleType('sn_mm')
package.__path__ = [{str(Path(__file__).parents[3] / 'sn_mm')!r}]
sys.modules['sn_mm'] = package
"""
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
# rows of RoIs, with and without a remainder of four; more channels than are
# summed at once; more positions than are summed in float32; rows too short
# for a register; a single row, channel, sample or position
SHAPES = [
    (5, 12, 7, 7),
    (3, 7, 5, 5),
    (2, 300, 9, 3),
    (2, 6, 61, 47),
    (4, 33, 1, 2),
    (1, 5, 13, 11),
    (3, 1, 4, 4),
    (1, 1, 1, 1),
    (6, 37, 1, 1),
    (9, 21),
    (2, 5, 9),
    (1, 16, 4100),
    (2, 6, 5, 4, 7),
]
TOLERANCES = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def make_input(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    mean: float = 3.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """x, whose rows have means of their own, and dy."""
    gen = torch.Generator().manual_seed(seed)
    ones = (1,) * (len(shape) - 2)
    offsets = torch.randn(*shape[:2], *ones, generator=gen)
    x = 2 * torch.randn(shape, generator=gen) + mean * offsets
    pair = x.to(dtype), torch.randn(shape, generator=gen).to(dtype)
    if channels_last and len(shape) in FORMATS:
        form = FORMATS[len(shape)]
        pair = tuple(t.contiguous(memory_format=form) for t in pair)
    return pair


def make_factors(shape: tuple[int, ...], count: int) -> list[Tensor]:
    gen = torch.Generator().manual_seed(1)
    return [torch.randn(shape[:2], generator=gen) for _ in range(count)]


class Expected(NamedTuple):
    """The sweeps in float64."""

    moments: Tensor
    y: Tensor
    sums: Tensor
    dx: Tensor


def expected(
    dy: Tensor,
    x: Tensor,
    near: Tensor,
    factors: list[Tensor],
    relu: bool = False,
) -> Expected:
    """Args:
    factors: scale and shift of affine; scale, slope and shift of combine.
    """
    x, dy, near = x.double(), dy.double(), near.double()
    ones = (1,) * (x.dim() - 2)
    near, scale, shift, blend, slope, rest = (
        t.double().view(*t.shape, *ones) for t in (near, *factors)
    )

    def row_sums(t: Tensor) -> Tensor:
        return t.reshape(*t.shape[:2], -1).sum(2)

    size = x[0, 0].numel()
    mean = row_sums(x) / size
    var = row_sums((x - mean.view(*mean.shape, *ones)).square()) / size
    y = scale * (x - near) + shift
    if relu:
        dy = dy * (y > 0)
        y = y.relu()
    return Expected(
        torch.stack([mean, var]),
        y,
        torch.stack([row_sums(dy), row_sums(dy * (x - near))]),
        blend * dy + slope * (x - near) + rest,
    )
