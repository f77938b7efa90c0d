# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The sweeps over rows in Triton, in either memory format.

A sweep works on tiles: ROWS channels (``r``) by BLOCK positions (``s``) of one
sample n. ``first_c`` and ``first_s`` are a tile's first channel and position,
``split`` or ``block`` its number along the positions. Channels are the inner
dimension in memory with LAST, positions without it; ALIGN is a divisor of the
inner size (1 to 16) that the compiler is told, so that it loads several values
at once whatever the size is. The inner one of the arguments C and S comes
divided by ALIGN.

Names of values: ``v`` of x, ``g`` of dy (the gradient), ``near`` what x is
centred on, ``d`` = v - near. Numbers of rows are float32 (N, C) arrays, a row
being number n * C + c, of which there are ``count``.

Where sums go over a row, each thread adds up its own values in float32 and the
threads meet once, at the end: nothing in a loop waits, and nothing is float64.
A row of many tiles is split between programs (``splits`` of ``tiles`` tiles
each). What they found, ``parts``, is merged in float64 by a second small
kernel, which costs nothing because it never sees x.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _sizes(C, S, ALIGN: tl.constexpr, LAST: tl.constexpr):
    """The numbers of channels and positions."""
    if LAST:
        return C * ALIGN, S
    else:
        return C, S * ALIGN


@triton.jit
def _place(
    C,
    parts,
    ROWS: tl.constexpr,
    LAST: tl.constexpr,
    BACKWARDS: tl.constexpr,
):
    """Sample, first channel and part of the positions of this program.

    In the order in which values lie in memory, or from their end: what the
    sweep before read last may still be cached.
    """
    program = tl.program_id(0)
    if BACKWARDS:
        program = tl.num_programs(0) - 1 - program
    groups = tl.cdiv(C, ROWS)
    if LAST:
        n = program // groups // parts
        return n, (program % groups) * ROWS, program // groups % parts
    else:
        n = program // parts // groups
        return n, (program // parts % groups) * ROWS, program % parts


@triton.jit
def _first(n, first_c, first_s, C, S, LAST: tl.constexpr):
    """Where the first value of a tile lies, in 64 bits."""
    n = n.to(tl.int64)
    if LAST:
        return (n * S + first_s) * C + first_c
    else:
        return (n * C + first_c) * S + first_s


@triton.jit
def _offsets(r, s, C, S, LAST: tl.constexpr):
    """Where a tile's values lie from its first on; 32 bits are enough."""
    if LAST:
        return r[:, None] + s[None, :] * C
    else:
        return r[:, None] * S + s[None, :]


@triton.jit
def _load(t, first, offsets, mask):
    return tl.load(t + first + offsets, mask=mask, other=0).to(tl.float32)


@triton.jit
def _numbers(t, row, inside):
    """Numbers of a tile's rows, to be combined with its values."""
    return tl.load(t + row, mask=inside, other=0)[:, None]


@triton.jit
def _gated(g, d, scale, shift):
    """The gradient where a ReLU let scale * d + shift through."""
    return tl.where(scale * d + shift > 0, g, 0.0)


@triton.jit
def _part(parts, split, numbers, count):
    """Where the numbers of a split begin; ``numbers`` for each row."""
    return parts + split.to(tl.int64) * numbers * count


@triton.jit(do_not_specialize=['count', 'C', 'S', 'splits', 'tiles'])
def moments_kernel(
    x,
    parts,
    count,
    C,
    S,
    splits,
    tiles,
    ALIGN: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of every row's split for its mean and variance.

    parts: (splits, 3, count): near, the mean of the split's first tile;
    sum(x - near); sum((x - near) ** 2). The first tile takes part in the
    variance, so its mean is never so far off that much cancels.
    """
    C, S = _sizes(C, S, ALIGN, LAST)
    n, first_c, split = _place(C, splits, ROWS, LAST, False)
    r = tl.arange(0, ROWS)
    s = tl.arange(0, BLOCK)
    inside = r < C - first_c
    offsets = _offsets(r, s, C, S, LAST)
    start = split * tiles * BLOCK
    end = tl.minimum(start + tiles * BLOCK, S)

    mask = inside[:, None] & (s < S - start)[None, :]
    v = _load(x, _first(n, first_c, start, C, S, LAST), offsets, mask)
    width = tl.minimum(S - start, BLOCK).to(tl.float32)
    near = tl.sum(v, 1) / width
    d = tl.where(mask, v - near[:, None], 0.0)
    total = d
    squares = d * d
    for first_s in range(start + BLOCK, end, BLOCK):
        mask = inside[:, None] & (s < S - first_s)[None, :]
        v = _load(x, _first(n, first_c, first_s, C, S, LAST), offsets, mask)
        d = tl.where(mask, v - near[:, None], 0.0)
        total += d
        squares += d * d
    at = _part(parts, split, 3, count) + n * C + first_c + r
    tl.store(at, near, mask=inside)
    tl.store(at + count, tl.sum(total, 1), mask=inside)
    tl.store(at + 2 * count, tl.sum(squares, 1), mask=inside)


@triton.jit(do_not_specialize=['count', 'C', 'S', 'splits', 'tiles'])
def products_kernel(
    dy,
    x,
    near,
    scale,
    shift,
    parts,
    count,
    C,
    S,
    splits,
    tiles,
    GATE: tl.constexpr,
    ALIGN: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """sum(dy) and sum(dy * (x - near)) of every row's split.

    parts: (splits, 2, count). With GATE, scale and shift are those of the
    affine before a ReLU.
    """
    C, S = _sizes(C, S, ALIGN, LAST)
    n, first_c, split = _place(C, splits, ROWS, LAST, False)
    r = tl.arange(0, ROWS)
    s = tl.arange(0, BLOCK)
    inside = r < C - first_c
    row = n * C + first_c + r
    offsets = _offsets(r, s, C, S, LAST)
    start = split * tiles * BLOCK
    end = tl.minimum(start + tiles * BLOCK, S)

    centre = _numbers(near, row, inside)
    if GATE:
        gate_scale = _numbers(scale, row, inside)
        gate_shift = _numbers(shift, row, inside)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    products = tl.zeros([ROWS, BLOCK], tl.float32)
    for first_s in range(start, end, BLOCK):
        mask = inside[:, None] & (s < S - first_s)[None, :]
        first = _first(n, first_c, first_s, C, S, LAST)
        d = _load(x, first, offsets, mask) - centre
        g = _load(dy, first, offsets, mask)
        if GATE:
            g = _gated(g, d, gate_scale, gate_shift)
        total += g
        products += g * d
    at = _part(parts, split, 2, count) + row
    tl.store(at, tl.sum(total, 1), mask=inside)
    tl.store(at + count, tl.sum(products, 1), mask=inside)


@triton.jit(do_not_specialize=['count', 'C', 'S', 'splits', 'tiles'])
def remeasure_kernel(
    dy,
    x,
    parts,
    count,
    C,
    S,
    splits,
    tiles,
    ALIGN: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What moments_kernel and products_kernel sum, in one read.

    parts: (splits, 5, count): near, sum(x - near), sum((x - near) ** 2),
    sum(dy), sum(dy * (x - near)), with the split's own near.
    """
    C, S = _sizes(C, S, ALIGN, LAST)
    n, first_c, split = _place(C, splits, ROWS, LAST, False)
    r = tl.arange(0, ROWS)
    s = tl.arange(0, BLOCK)
    inside = r < C - first_c
    offsets = _offsets(r, s, C, S, LAST)
    start = split * tiles * BLOCK
    end = tl.minimum(start + tiles * BLOCK, S)

    mask = inside[:, None] & (s < S - start)[None, :]
    first = _first(n, first_c, start, C, S, LAST)
    v = _load(x, first, offsets, mask)
    g = _load(dy, first, offsets, mask)
    width = tl.minimum(S - start, BLOCK).to(tl.float32)
    near = tl.sum(v, 1) / width
    d = tl.where(mask, v - near[:, None], 0.0)
    total = d
    squares = d * d
    gradient = g
    products = g * d
    for first_s in range(start + BLOCK, end, BLOCK):
        mask = inside[:, None] & (s < S - first_s)[None, :]
        first = _first(n, first_c, first_s, C, S, LAST)
        v = _load(x, first, offsets, mask)
        g = _load(dy, first, offsets, mask)
        d = tl.where(mask, v - near[:, None], 0.0)
        total += d
        squares += d * d
        gradient += g
        products += g * d
    at = _part(parts, split, 5, count) + n * C + first_c + r
    tl.store(at, near, mask=inside)
    tl.store(at + count, tl.sum(total, 1), mask=inside)
    tl.store(at + 2 * count, tl.sum(squares, 1), mask=inside)
    tl.store(at + 3 * count, tl.sum(gradient, 1), mask=inside)
    tl.store(at + 4 * count, tl.sum(products, 1), mask=inside)


@triton.jit(do_not_specialize=['C', 'S', 'blocks'])
def affine_kernel(
    x,
    y,
    near,
    scale,
    shift,
    C,
    S,
    blocks,
    RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = scale * (x - near) + shift, and max(y, 0) with RELU."""
    C, S = _sizes(C, S, ALIGN, LAST)
    n, first_c, block = _place(C, blocks, ROWS, LAST, True)
    r = tl.arange(0, ROWS)
    s = tl.arange(0, BLOCK)
    inside = r < C - first_c
    row = n * C + first_c + r
    offsets = _offsets(r, s, C, S, LAST)
    first_s = block * BLOCK
    first = _first(n, first_c, first_s, C, S, LAST)
    mask = inside[:, None] & (s < S - first_s)[None, :]
    d = _load(x, first, offsets, mask) - _numbers(near, row, inside)
    out = _numbers(scale, row, inside) * d + _numbers(shift, row, inside)
    if RELU:
        # not maximum(), which would hide a NaN
        out = tl.where(out < 0, 0.0, out)
    tl.store(y + first + offsets, out.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['C', 'S', 'blocks'])
def combine_kernel(
    dy,
    x,
    dx,
    scale,
    near,
    slope,
    shift,
    gate_scale,
    gate_shift,
    C,
    S,
    blocks,
    GATE: tl.constexpr,
    ALIGN: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx = scale * dy + slope * (x - near) + shift."""
    C, S = _sizes(C, S, ALIGN, LAST)
    n, first_c, block = _place(C, blocks, ROWS, LAST, True)
    r = tl.arange(0, ROWS)
    s = tl.arange(0, BLOCK)
    inside = r < C - first_c
    row = n * C + first_c + r
    offsets = _offsets(r, s, C, S, LAST)
    first_s = block * BLOCK
    first = _first(n, first_c, first_s, C, S, LAST)
    mask = inside[:, None] & (s < S - first_s)[None, :]
    d = _load(x, first, offsets, mask) - _numbers(near, row, inside)
    g = _load(dy, first, offsets, mask)
    if GATE:
        g = _gated(
            g,
            d,
            _numbers(gate_scale, row, inside),
            _numbers(gate_shift, row, inside),
        )
    out = _numbers(slope, row, inside) * d + _numbers(shift, row, inside)
    out += _numbers(scale, row, inside) * g
    tl.store(dx + first + offsets, out.to(dx.dtype.element_ty), mask=mask)


@triton.jit
def _wide(t, at, mask):
    return tl.load(t + at, mask=mask, other=0).to(tl.float64)


@triton.jit(do_not_specialize=['count', 'size', 'splits', 'per_split'])
def merge_moments_kernel(
    parts,
    moments,
    sums,
    count,
    size,
    splits,
    per_split,
    PRODUCTS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Moments (2, count) of rows from their splits' sums, in float64.

    size: positions of a row. parts: of moments_kernel; with PRODUCTS those of
    remeasure_kernel, and sums (2, count) are sum(dy) and sum(dy * (x - near))
    about the row's mean as float32. SPLITS of ROWS rows are read at a time.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    numbers = 5 if PRODUCTS else 3
    total = tl.zeros([SPLITS, ROWS], tl.float64)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        mask = (split < splits)[:, None] & inside[None, :]
        at = split.to(tl.int64)[:, None] * numbers * count + row[None, :]
        width = tl.minimum(size - split * per_split, per_split)
        near = _wide(parts, at, mask)
        total += near * width.to(tl.float64)[:, None]
        total += _wide(parts, at + count, mask)
    mean = tl.sum(total, 0) / size

    squares = tl.zeros([SPLITS, ROWS], tl.float64)
    gradient = tl.zeros([SPLITS, ROWS], tl.float64)
    products = tl.zeros([SPLITS, ROWS], tl.float64)
    centre = mean.to(tl.float32).to(tl.float64)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        mask = (split < splits)[:, None] & inside[None, :]
        at = split.to(tl.int64)[:, None] * numbers * count + row[None, :]
        width = tl.minimum(size - split * per_split, per_split)
        near = _wide(parts, at, mask)
        delta = near - mean[None, :]
        between = delta * width.to(tl.float64)[:, None]
        between = delta * (2 * _wide(parts, at + count, mask) + between)
        squares += tl.where(mask, between, 0.0)
        squares += _wide(parts, at + 2 * count, mask)
        if PRODUCTS:
            g = _wide(parts, at + 3 * count, mask)
            gradient += g
            products += _wide(parts, at + 4 * count, mask)
            products += g * (near - centre[None, :])
    variance = tl.sum(squares, 0) / size
    # not maximum(), which would hide a NaN
    variance = tl.where(variance < 0, 0.0, variance)
    tl.store(moments + row, mean, mask=inside)
    tl.store(moments + count + row, variance, mask=inside)
    if PRODUCTS:
        tl.store(sums + row, tl.sum(gradient, 0), mask=inside)
        tl.store(sums + count + row, tl.sum(products, 0), mask=inside)


@triton.jit(do_not_specialize=['count', 'splits'])
def merge_sums_kernel(
    parts, sums, count, splits, SPLITS: tl.constexpr, ROWS: tl.constexpr
):
    """sums (count,) of parts (splits, count), in float64."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    total = tl.zeros([SPLITS, ROWS], tl.float64)
    for first in range(0, splits, SPLITS):
        split = first + tl.arange(0, SPLITS)
        mask = (split < splits)[:, None] & inside[None, :]
        at = split.to(tl.int64)[:, None] * count + row[None, :]
        total += _wide(parts, at, mask)
    tl.store(sums + row, tl.sum(total, 0), mask=inside)
