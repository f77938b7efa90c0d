# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps on a GPU: how the kernels are laid over an input.

Two launches for what is summed over rows, one for what is written.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import aten
from .. import factors as factors
from ..layout import dense, is_channels_last, spatial_size
from .library import kernels, on, problem

name = 'triton'

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_TILE = 2048  # values at a time: 16 for each of a program's 128 threads
_CHANNELS = 64  # of them, where channels are last
_PROGRAMS = 1024  # that keep every multiprocessor busy
_MOST_SPLITS = 256  # of a row to fill the device; merging takes time too
_MOST_TILES = 64  # that a program adds up in float32
_MOST_ROWS = 2**28  # row numbers, in a few variants, fit into 32 bits
_MOST_POSITIONS = 2**30
_MERGED = 512  # numbers at a time, where splits are merged


def why_not(x: Tensor) -> str | None:
    """None if x can be taken, or one sentence why not.

    Args:
        x: (N, C, *spatial), not empty.
    """
    if x.dtype not in _DTYPES:
        return f'it is {x.dtype}; the kernels take float32 and half precisions'
    if not _is_plain(x):
        return 'it is not a plain strided tensor'
    if x.shape[0] * x.shape[1] > _MOST_ROWS:
        return f'it has more than {_MOST_ROWS} rows'
    if spatial_size(x) > _MOST_POSITIONS:
        return f'its rows have more than {_MOST_POSITIONS} positions'
    return problem(x.device, x.dtype)


def moments(x: Tensor) -> Tensor:
    """See :func:`sn_mm.kernels.aten.moments`."""
    if not _is_plain(x):
        return aten.moments(x)
    x, tiles = _lay_out(x)
    parts = _parts(x, tiles, 3)
    result = x.new_empty((2, *x.shape[:2]), dtype=torch.float64)
    with on(x.device):
        kernels().moments_kernel[(tiles.groups * tiles.splits,)](
            x,
            parts,
            tiles.count,
            tiles.channels,
            tiles.positions,
            tiles.splits,
            tiles.per_split,
            ALIGN=tiles.align,
            LAST=tiles.last,
            ROWS=tiles.rows,
            BLOCK=tiles.block,
        )
        _merge_moments(parts, result, None, spatial_size(x), tiles)
    return result


def affine(
    x: Tensor, near: Tensor, scale: Tensor, shift: Tensor, relu: bool = False
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.affine`."""
    if not _are_plain(x, near, scale, shift):
        return aten.affine(x, near, scale, shift, relu)
    near, scale, shift = _numbers(x, near=near, scale=scale, shift=shift)
    x, tiles = _lay_out(x)
    y = torch.empty_like(x)
    with on(x.device):
        kernels().affine_kernel[(tiles.groups * tiles.blocks,)](
            x,
            y,
            near,
            scale,
            shift,
            tiles.channels,
            tiles.positions,
            tiles.blocks,
            RELU=relu,
            ALIGN=tiles.align,
            LAST=tiles.last,
            ROWS=tiles.rows,
            BLOCK=tiles.block,
        )
    return y


def products(
    dy: Tensor,
    x: Tensor,
    near: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.products`."""
    if not _are_plain(dy, x, near, *(gate or ())):
        return aten.products(dy, x, near, gate)
    (near,) = _numbers(x, near=near)
    gate_scale, gate_shift = _gate(x, gate, near)
    x, tiles = _lay_out(x)
    dy = _laid_out_like(dy, x)
    parts = _parts(x, tiles, 2)
    sums = x.new_empty((2, *x.shape[:2]), dtype=torch.float64)
    with on(x.device):
        kernels().products_kernel[(tiles.groups * tiles.splits,)](
            dy,
            x,
            near,
            gate_scale,
            gate_shift,
            parts,
            tiles.count,
            tiles.channels,
            tiles.positions,
            tiles.splits,
            tiles.per_split,
            GATE=gate is not None,
            ALIGN=tiles.align,
            LAST=tiles.last,
            ROWS=tiles.rows,
            BLOCK=tiles.block,
        )
        rows, grid = _merge_grid(2 * tiles.count, tiles)
        kernels().merge_sums_kernel[grid](
            parts,
            sums,
            2 * tiles.count,
            tiles.splits,
            SPLITS=tiles.merged,
            ROWS=rows,
        )
    return sums


def combine(
    dy: Tensor,
    x: Tensor,
    scale: Tensor,
    near: Tensor,
    slope: Tensor,
    shift: Tensor,
    gate: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """See :func:`sn_mm.kernels.aten.combine`."""
    if not _are_plain(dy, x, scale, near, slope, shift, *(gate or ())):
        return aten.combine(dy, x, scale, near, slope, shift, gate)
    scale, near, slope, shift = _numbers(
        x, scale=scale, near=near, slope=slope, shift=shift
    )
    gate_scale, gate_shift = _gate(x, gate, near)
    x, tiles = _lay_out(x)
    dy = _laid_out_like(dy, x)
    dx = torch.empty_like(x)
    with on(x.device):
        kernels().combine_kernel[(tiles.groups * tiles.blocks,)](
            dy,
            x,
            dx,
            scale,
            near,
            slope,
            shift,
            gate_scale,
            gate_shift,
            tiles.channels,
            tiles.positions,
            tiles.blocks,
            GATE=gate is not None,
            ALIGN=tiles.align,
            LAST=tiles.last,
            ROWS=tiles.rows,
            BLOCK=tiles.block,
        )
    return dx


def remeasure(dy: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`sn_mm.kernels.aten.remeasure`."""
    if not _are_plain(dy, x):
        return aten.remeasure(dy, x)
    x, tiles = _lay_out(x)
    dy = _laid_out_like(dy, x)
    parts = _parts(x, tiles, 5)
    measured = x.new_empty((2, *x.shape[:2]), dtype=torch.float64)
    sums = torch.empty_like(measured)
    with on(x.device):
        kernels().remeasure_kernel[(tiles.groups * tiles.splits,)](
            dy,
            x,
            parts,
            tiles.count,
            tiles.channels,
            tiles.positions,
            tiles.splits,
            tiles.per_split,
            ALIGN=tiles.align,
            LAST=tiles.last,
            ROWS=tiles.rows,
            BLOCK=tiles.block,
        )
        _merge_moments(parts, measured, sums, spatial_size(x), tiles)
    return measured, sums


class Tiles(NamedTuple):
    """How programs share an input.

    Attributes:
        count: rows, N * C.
        channels, positions: C and S as the kernels take them: the inner one
            divided by ``align``.
        align: divisor of the inner size that the kernels are compiled for.
        last: whether channels are the inner dimension.
        rows, block: channels and positions of a tile.
        groups: tiles beside each other, over all samples.
        blocks: tiles along the positions.
        splits: programs that share a row where sums are taken.
        per_split: tiles of each.
        merged: splits that are merged at a time.
    """

    count: int
    channels: int
    positions: int
    align: int
    last: bool
    rows: int
    block: int
    groups: int
    blocks: int
    splits: int
    per_split: int
    merged: int


@functools.lru_cache(maxsize=4096)
def make_tiles(n: int, c: int, size: int, last: bool) -> Tiles:
    """Tiles for x (n, c, size positions), or (n, size, c) with ``last``."""
    align = math.gcd(c if last else size, 16)
    # values that are loaded one by one take twice the registers
    tile = _TILE if align > 1 else _TILE // 2
    if last:
        rows = min(_power(c), max(_CHANNELS, tile // min(_power(size), tile)))
        block = min(_power(size), tile // rows)
    else:
        block = min(_power(size), tile)
        rows = min(_power(c), tile // block)
    groups, blocks = n * -(-c // rows), -(-size // block)
    wanted = max(
        min(_PROGRAMS // groups, _MOST_SPLITS), -(-blocks // _MOST_TILES), 1
    )
    per_split = -(-blocks // wanted)
    splits = -(-blocks // per_split)
    return Tiles(
        count=n * c,
        channels=c // align if last else c,
        positions=size if last else size // align,
        align=align,
        last=last,
        rows=rows,
        block=block,
        groups=groups,
        blocks=blocks,
        splits=splits,
        per_split=per_split,
        # few variants, because each is compiled
        merged=1 if splits == 1 else 8 if splits <= 8 else 64,
    )


def _power(value: int) -> int:
    """The next power of two."""
    return 1 << (value - 1).bit_length()


def _lay_out(x: Tensor) -> tuple[Tensor, Tiles]:
    """x without gaps, and tiles over it."""
    last = is_channels_last(x)
    size = spatial_size(x)
    # of single positions, channels are the inner dimension in any format
    tiles = make_tiles(*x.shape[:2], size, last or size == 1)
    return dense(x, last), tiles


def _laid_out_like(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient in x's dtype and memory format."""
    if dy.shape != x.shape or dy.device != x.device:
        raise ValueError(
            f'dy is {tuple(dy.shape)} on {dy.device}, but x is '
            f'{tuple(x.shape)} on {x.device}'
        )
    return dense(dy.to(x.dtype), is_channels_last(x))


def _numbers(x: Tensor, **tensors: Tensor) -> list[Tensor]:
    """Numbers of x's rows as the kernels take them: float32, without gaps."""
    for key, t in tensors.items():
        if t.shape != x.shape[:2] or t.device != x.device:
            raise ValueError(
                f'{key} is {tuple(t.shape)} on {t.device}, but x, which is '
                f'{tuple(x.shape)} on {x.device}, needs a number for each of '
                f'its rows {tuple(x.shape[:2])}'
            )
    return [t.float().contiguous() for t in tensors.values()]


def _gate(
    x: Tensor, gate: tuple[Tensor, Tensor] | None, unused: Tensor
) -> list[Tensor]:
    """Scale and shift of the affine before a ReLU; any tensor without one."""
    if gate is None:
        return [unused, unused]
    return _numbers(x, gate_scale=gate[0], gate_shift=gate[1])


def _parts(x: Tensor, tiles: Tiles, numbers: int) -> Tensor:
    """Room for ``numbers`` sums of every split of every row."""
    shape = (tiles.splits, numbers, tiles.count)
    return x.new_empty(shape, dtype=torch.float32)


def _merge_grid(columns: int, tiles: Tiles) -> tuple[int, tuple[int]]:
    """Columns that a program merges, and the programs."""
    rows = _MERGED // tiles.merged
    return rows, (-(-columns // rows),)


def _merge_moments(
    parts: Tensor,
    result: Tensor,
    sums: Tensor | None,
    size: int,
    tiles: Tiles,
) -> None:
    rows, grid = _merge_grid(tiles.count, tiles)
    kernels().merge_moments_kernel[grid](
        parts,
        result,
        result if sums is None else sums,
        tiles.count,
        size,
        tiles.splits,
        tiles.per_split * tiles.block,
        PRODUCTS=sums is not None,
        SPLITS=tiles.merged,
        ROWS=rows,
    )


def _are_plain(*tensors: Tensor) -> bool:
    return all(map(_is_plain, tensors))


def _is_plain(t: Tensor) -> bool:
    """Whether t's memory holds its values: only then kernels may read it."""
    return (
        (type(t) is Tensor or type(t) is torch.nn.Parameter)
        and t.layout is torch.strided
        and not t.is_neg()
        and not t._is_zerotensor()
        and not torch._C._functorch.is_functorch_wrapped_tensor(t)
    )
