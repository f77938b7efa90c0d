# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization on a GPU: the sweeps of switch.c in Triton.

Sweeps over x run on tiles of ROWS channels by BLOCK positions of one sample,
in either memory format: value (n, c, s) lies at n * C * S + c * stride_c + s *
stride_s. Large maps are split, the splits' sums being merged by the kernels
for numbers: ``pool`` and ``sums``, which run a program a block of channels and
a program a sample (and group of channels).

A row is one (n, c), number n * C + c. Numbers of rows are float64; arrays of
them hold all means, then all variances. IN, LN, GN and BN are the places of
the statistics among the ratios (2, G, K), -1 for one that is not mixed; LN and
GN pool (2, N) and (2, N, groups) numbers, BN's are (2, C).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(C, ROWS: tl.constexpr):
    """Sample and channels of a tile."""
    blocks = tl.cdiv(C, ROWS)
    pid = tl.program_id(0)
    return pid // blocks, (pid % blocks) * ROWS + tl.arange(0, ROWS)


@triton.jit
def _tile(n, c, s, C, S, stride_c, stride_s):
    """Offsets of values, 64 bits wide."""
    rows = n.to(tl.int64) * C * S + c.to(tl.int64) * stride_c
    return rows[:, None] + (s.to(tl.int64) * stride_s)[None, :]


@triton.jit
def moments_kernel(
    x,
    out,
    C,
    S,
    stride_c,
    stride_s,
    count,
    per_split,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean and sum of centred squares of every row's split.

    out: (splits, 2, N * C); count: N * C.
    """
    n, c = _rows(C, ROWS)
    split = tl.program_id(1)
    start = split * per_split
    end = tl.minimum(start + per_split, S)
    mean = tl.zeros([ROWS], tl.float64)
    squares = tl.zeros([ROWS], tl.float64)
    for first in range(start, end, BLOCK):
        s = first + tl.arange(0, BLOCK)
        mask = (c < C)[:, None] & (s < end)[None, :]
        at = _tile(n, c, s, C, S, stride_c, stride_s)
        v = tl.load(x + at, mask=mask, other=0).to(tl.float32)
        size = tl.minimum(end - first, BLOCK).to(tl.float64)
        before = (first - start).to(tl.float64)
        near = tl.sum(v, 1) / size.to(tl.float32)
        d = tl.where(mask, v - near[:, None], 0.0)
        # what the rounding of near left over
        rest = tl.sum(d, 1).to(tl.float64)
        spread = tl.sum(d * d, 1).to(tl.float64) - rest * rest / size
        delta = near.to(tl.float64) + rest / size - mean
        part = size / (before + size)
        squares += spread + delta * delta * part * before
        mean += delta * part
    row = n * C + c
    at = out + split * 2 * count + row
    tl.store(at, mean, mask=c < C)
    tl.store(at + count, squares, mask=c < C)


@triton.jit
def _merged(
    parts, row, mask, count, S, per_split, spread, SPLITS: tl.constexpr
):
    """Mean and variance of rows from their splits."""
    mean = tl.load(parts + row, mask=mask, other=0)
    squares = tl.load(parts + count + row, mask=mask, other=0)
    for split in range(1, SPLITS):
        at = parts + split * 2 * count + row
        before = (split * per_split).to(tl.float64)
        size = tl.minimum(S - split * per_split, per_split).to(tl.float64)
        part = size / (before + size)
        delta = tl.load(at, mask=mask, other=0) - mean
        squares += tl.load(at + count, mask=mask, other=0)
        squares += delta * delta * part * before
        mean += delta * part
    return mean, tl.maximum(squares, 0.0) / S * spread


@triton.jit
def _pool_channels(
    parts, moments, bn, pid, N, C, S, per_split, spread,
    SPLITS: tl.constexpr, BN: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """BN's moments of a block of channels; every row's own on the way."""
    c = pid * CHANNELS + tl.arange(0, CHANNELS)
    mask = c < C
    mean = tl.zeros([CHANNELS], tl.float64)
    var = tl.zeros([CHANNELS], tl.float64)
    for n in range(0, N):
        row = n * C + c
        m, v = _merged(parts, row, mask, N * C, S, per_split, spread, SPLITS)
        tl.store(moments + row, m, mask=mask)
        tl.store(moments + N * C + row, v, mask=mask)
        delta = m - mean
        mean += delta / (n + 1)
        var += v + delta * (m - mean)
    if BN:
        tl.store(bn + c, mean, mask=mask)
        tl.store(bn + C + c, var / N, mask=mask)


@triton.jit
def _pool_sample(
    parts, out, pid, N, C, S, per_split, spread, groups,
    SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """LN's or GN's moments of one group of channels of one sample."""
    width = C // groups
    first = pid * width  # the group's first row
    total = tl.zeros([CHANNELS], tl.float64)
    for start in range(0, width, CHANNELS):
        e = start + tl.arange(0, CHANNELS)
        m, v = _merged(
            parts, first + e, e < width, N * C, S, per_split, spread, SPLITS
        )
        total += tl.where(e < width, m, 0.0)
    mean = tl.sum(total, 0) / width
    total = tl.zeros([CHANNELS], tl.float64)
    for start in range(0, width, CHANNELS):
        e = start + tl.arange(0, CHANNELS)
        m, v = _merged(
            parts, first + e, e < width, N * C, S, per_split, spread, SPLITS
        )
        total += tl.where(e < width, v + (m - mean) * (m - mean), 0.0)
    tl.store(out + pid, mean)
    tl.store(out + N * groups + pid, tl.sum(total, 0) / width)


@triton.jit
def pool_kernel(
    parts,
    moments,
    ln,
    gn,
    bn,
    N,
    C,
    S,
    per_split,
    spread,
    groups,
    SPLITS: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Moments (2, N, C) of rows, and pooled ones.

    Grid: blocks of channels, then N samples for LN, then N * groups for GN.
    ``BN`` says whether bn is to be pooled.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, CHANNELS)
    if pid < blocks:
        _pool_channels(
            parts, moments, bn, pid, N, C, S, per_split, spread, SPLITS, BN,
            CHANNELS,
        )  # fmt: skip
    if LN >= 0:
        if (pid >= blocks) & (pid < blocks + N):
            _pool_sample(
                parts, ln, pid - blocks, N, C, S, per_split, spread, 1,
                SPLITS, CHANNELS,
            )  # fmt: skip
        blocks += N
    if GN >= 0:
        if pid >= blocks:
            _pool_sample(
                parts, gn, pid - blocks, N, C, S, per_split, spread, groups,
                SPLITS, CHANNELS,
            )  # fmt: skip


@triton.jit
def _ratio(ratios, half, g, G, K: tl.constexpr, j: tl.constexpr, mask):
    return tl.load(ratios + (half * G + g) * K + j, mask=mask, other=0)


@triton.jit
def _mix(
    moments,
    ln,
    gn,
    bn,
    ratios,
    n,
    c,
    mask,
    N,
    C,
    groups,
    G,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    half: tl.constexpr,
):
    """Means (half 0) or variances (half 1) to normalize channels c with."""
    g = c // (C // G)
    mixed = tl.zeros(c.shape, tl.float64)
    if IN >= 0:
        own = tl.load(moments + half * N * C + n * C + c, mask=mask, other=0)
        mixed += _ratio(ratios, half, g, G, K, IN, mask) * own
    if LN >= 0:
        value = tl.load(ln + half * N + n)
        mixed += _ratio(ratios, half, g, G, K, LN, mask) * value
    if GN >= 0:
        at = gn + (half * N + n) * groups + c // (C // groups)
        value = tl.load(at, mask=mask, other=0)
        mixed += _ratio(ratios, half, g, G, K, GN, mask) * value
    if BN >= 0:
        value = tl.load(bn + half * C + c, mask=mask, other=0)
        mixed += _ratio(ratios, half, g, G, K, BN, mask) * value
    return mixed


@triton.jit
def _vector(t, c, mask, default, GIVEN: tl.constexpr):
    """A channel's weight or bias, float64; the default if there is none."""
    if GIVEN:
        return tl.load(t + c, mask=mask, other=0).to(tl.float64)
    else:
        return tl.zeros(c.shape, tl.float64) + default


@triton.jit
def apply_kernel(
    x,
    y,
    moments,
    ln,
    gn,
    bn,
    ratios,
    weight,
    bias,
    N,
    C,
    S,
    stride_c,
    stride_s,
    groups,
    G,
    eps,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """y = weight * (x - mu) / sqrt(var + eps) + bias."""
    n, c = _rows(C, ROWS)
    inside = c < C
    mu = _mix(
        moments, ln, gn, bn, ratios, n, c, inside,
        N, C, groups, G, K, IN, LN, GN, BN, 0,
    )  # fmt: skip
    var = _mix(
        moments, ln, gn, bn, ratios, n, c, inside,
        N, C, groups, G, K, IN, LN, GN, BN, 1,
    )  # fmt: skip
    scale = _vector(weight, c, inside, 1.0, WEIGHT) / tl.sqrt(var + eps)
    near = tl.load(moments + n * C + c, mask=inside, other=0).to(tl.float32)
    shift = _vector(bias, c, inside, 0.0, BIAS)
    shift = (shift - scale * (mu - near.to(tl.float64))).to(tl.float32)
    s = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = inside[:, None] & (s < S)[None, :]
    at = _tile(n, c, s, C, S, stride_c, stride_s)
    v = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    v = scale.to(tl.float32)[:, None] * (v - near[:, None]) + shift[:, None]
    tl.store(y + at, v.to(y.dtype.element_ty), mask=mask)


@triton.jit
def reduce_kernel(
    dy,
    x,
    moments,
    out,
    C,
    S,
    stride_c,
    stride_s,
    count,
    per_split,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """sum(dy) and sum(dy * (x - m)) of every row's split.

    out: (splits, 2, N * C).
    """
    n, c = _rows(C, ROWS)
    split = tl.program_id(1)
    start = split * per_split
    end = tl.minimum(start + per_split, S)
    row = n * C + c
    near = tl.load(moments + row, mask=c < C, other=0).to(tl.float32)
    s0 = tl.zeros([ROWS], tl.float64)
    s1 = tl.zeros([ROWS], tl.float64)
    for first in range(start, end, BLOCK):
        s = first + tl.arange(0, BLOCK)
        mask = (c < C)[:, None] & (s < end)[None, :]
        at = _tile(n, c, s, C, S, stride_c, stride_s)
        v = tl.load(x + at, mask=mask, other=0).to(tl.float32)
        g = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
        s0 += tl.sum(g, 1).to(tl.float64)
        s1 += tl.sum(g * (v - near[:, None]), 1).to(tl.float64)
    at = out + split * 2 * count + row
    tl.store(at, s0, mask=c < C)
    tl.store(at + count, s1, mask=c < C)


@triton.jit
def _sum(parts, row, mask, count, SPLITS: tl.constexpr):
    total = tl.load(parts + row, mask=mask, other=0)
    for split in range(1, SPLITS):
        total += tl.load(parts + split * 2 * count + row, mask=mask, other=0)
    return total


@triton.jit
def _row_sums(
    parts, moments, ln, gn, bn, ratios, weight, n, c, mask, N, C, groups, G,
    eps, SPLITS: tl.constexpr, K: tl.constexpr, IN: tl.constexpr,
    LN: tl.constexpr, GN: tl.constexpr, BN: tl.constexpr,
    WEIGHT: tl.constexpr,
):  # fmt: skip
    """sum(dy), sum(dy * (x - mu)) * rstd, rstd, d_mu and d_var of rows."""
    row = n * C + c
    s0 = _sum(parts, row, mask, N * C, SPLITS)
    s1 = _sum(parts + N * C, row, mask, N * C, SPLITS)
    mu = _mix(
        moments, ln, gn, bn, ratios, n, c, mask,
        N, C, groups, G, K, IN, LN, GN, BN, 0,
    )  # fmt: skip
    var = _mix(
        moments, ln, gn, bn, ratios, n, c, mask,
        N, C, groups, G, K, IN, LN, GN, BN, 1,
    )  # fmt: skip
    rstd = 1 / tl.sqrt(var + eps)
    near = tl.load(moments + row, mask=mask, other=0).to(tl.float32)
    s1 = (s1 - (mu - near.to(tl.float64)) * s0) * rstd
    scale = _vector(weight, c, mask, 1.0, WEIGHT) * rstd
    return s0, s1, rstd, -scale * s0, -0.5 * scale * rstd * s1


@triton.jit
def _add(d_ratios, j, K: tl.constexpr, C, c, mask, d_mean, d_var):
    """Store a channel's ratio gradients, (2, K, C)."""
    tl.store(d_ratios + j * C + c, d_mean, mask=mask)
    tl.store(d_ratios + (K + j) * C + c, d_var, mask=mask)


@triton.jit
def _sum_channels(
    parts, moments, ln, gn, bn, ratios, weight, sums, d_affine, d_ratios,
    d_bn, pid, N, C, groups, G, eps, SPLITS: tl.constexpr, K: tl.constexpr,
    IN: tl.constexpr, LN: tl.constexpr, GN: tl.constexpr, BN: tl.constexpr,
    BATCH: tl.constexpr, WEIGHT: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Over the samples, for a block of channels."""
    c = pid * CHANNELS + tl.arange(0, CHANNELS)
    mask = c < C
    zero = tl.zeros([CHANNELS], tl.float64)
    d_weight, d_bias, all_mu, all_var = zero, zero, zero, zero
    in_mean, in_var, ln_mean, ln_var = zero, zero, zero, zero
    gn_mean, gn_var = zero, zero
    for n in range(0, N):
        s0, s1, rstd, d_mu, d_var = _row_sums(
            parts, moments, ln, gn, bn, ratios, weight, n, c, mask, N, C,
            groups, G, eps, SPLITS, K, IN, LN, GN, BN, WEIGHT,
        )  # fmt: skip
        row = n * C + c
        tl.store(sums + row, s0, mask=mask)
        tl.store(sums + N * C + row, s1, mask=mask)
        tl.store(sums + 2 * N * C + row, rstd, mask=mask)
        d_weight += s1
        d_bias += s0
        all_mu += d_mu
        all_var += d_var
        if IN >= 0:
            own = tl.load(moments + row, mask=mask, other=0)
            in_mean += d_mu * own
            own = tl.load(moments + N * C + row, mask=mask, other=0)
            in_var += d_var * own
        if LN >= 0:
            ln_mean += d_mu * tl.load(ln + n)
            ln_var += d_var * tl.load(ln + N + n)
        if GN >= 0:
            at = gn + n * groups + c // (C // groups)
            gn_mean += d_mu * tl.load(at, mask=mask, other=0)
            at += N * groups
            gn_var += d_var * tl.load(at, mask=mask, other=0)
    tl.store(d_affine + c, d_weight.to(tl.float32), mask=mask)
    tl.store(d_affine + C + c, d_bias.to(tl.float32), mask=mask)
    if IN >= 0:
        _add(d_ratios, IN, K, C, c, mask, in_mean, in_var)
    if LN >= 0:
        _add(d_ratios, LN, K, C, c, mask, ln_mean, ln_var)
    if GN >= 0:
        _add(d_ratios, GN, K, C, c, mask, gn_mean, gn_var)
    if BN >= 0:
        mean = tl.load(bn + c, mask=mask, other=0)
        var = tl.load(bn + C + c, mask=mask, other=0)
        _add(d_ratios, BN, K, C, c, mask, all_mu * mean, all_var * var)
        if BATCH:
            g = c // (C // G)
            r = _ratio(ratios, 0, g, G, K, BN, mask)
            tl.store(d_bn + c, r * all_mu, mask=mask)
            r = _ratio(ratios, 1, g, G, K, BN, mask)
            tl.store(d_bn + C + c, r * all_var, mask=mask)


@triton.jit
def _sum_sample(
    parts, moments, ln, gn, bn, ratios, weight, out, pid, per_sample, N, C,
    groups, G, eps, SPLITS: tl.constexpr, K: tl.constexpr, IN: tl.constexpr,
    LN: tl.constexpr, GN: tl.constexpr, BN: tl.constexpr, j: tl.constexpr,
    WEIGHT: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """LN's or GN's d_mean and d_var for one group of one sample."""
    width = C // per_sample
    n = pid // per_sample
    first = (pid % per_sample) * width
    mean = tl.zeros([CHANNELS], tl.float64)
    var = tl.zeros([CHANNELS], tl.float64)
    for start in range(0, width, CHANNELS):
        e = start + tl.arange(0, CHANNELS)
        mask = e < width
        c = first + e
        s0, s1, rstd, d_mu, d_var = _row_sums(
            parts, moments, ln, gn, bn, ratios, weight, n, c, mask, N, C,
            groups, G, eps, SPLITS, K, IN, LN, GN, BN, WEIGHT,
        )  # fmt: skip
        g = c // (C // G)
        mean += tl.where(mask, _ratio(ratios, 0, g, G, K, j, mask) * d_mu, 0.0)
        var += tl.where(mask, _ratio(ratios, 1, g, G, K, j, mask) * d_var, 0.0)
    tl.store(out + pid, tl.sum(mean, 0))
    tl.store(out + N * per_sample + pid, tl.sum(var, 0))


@triton.jit
def sums_kernel(
    parts,
    moments,
    ln,
    gn,
    bn,
    ratios,
    weight,
    sums,
    d_affine,
    d_ratios,
    d_ln,
    d_gn,
    d_bn,
    N,
    C,
    groups,
    G,
    eps,
    SPLITS: tl.constexpr,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    BATCH: tl.constexpr,
    WEIGHT: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """All gradients but x's.

    Of every row, sums (3, N, C); d_affine (2, C) of weight and bias; of every
    channel's ratios, d_ratios (2, K, C); and sums of the gradients over what
    is pooled, d_ln, d_gn and d_bn (the latter with ``BATCH``, not for given
    moments). Grid as for :func:`pool_kernel`.
    """
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, CHANNELS)
    if pid < blocks:
        _sum_channels(
            parts, moments, ln, gn, bn, ratios, weight, sums, d_affine,
            d_ratios, d_bn, pid, N, C, groups, G, eps, SPLITS, K, IN, LN, GN,
            BN, BATCH, WEIGHT, CHANNELS,
        )  # fmt: skip
    if LN >= 0:
        if (pid >= blocks) & (pid < blocks + N):
            _sum_sample(
                parts, moments, ln, gn, bn, ratios, weight, d_ln,
                pid - blocks, 1, N, C, groups, G, eps, SPLITS, K, IN, LN, GN,
                BN, LN, WEIGHT, CHANNELS,
            )  # fmt: skip
        blocks += N
    if GN >= 0:
        if pid >= blocks:
            _sum_sample(
                parts, moments, ln, gn, bn, ratios, weight, d_gn,
                pid - blocks, groups, N, C, groups, G, eps, SPLITS, K, IN, LN,
                GN, BN, GN, WEIGHT, CHANNELS,
            )  # fmt: skip


@triton.jit
def input_grad_kernel(
    dy,
    x,
    dx,
    moments,
    ln,
    gn,
    bn,
    ratios,
    weight,
    sums,
    d_ln,
    d_gn,
    d_bn,
    N,
    C,
    S,
    stride_c,
    stride_s,
    groups,
    G,
    spread,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    BATCH: tl.constexpr,
    WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """dx = scale * dy + (d_m + 2 * d_v * (x - m)) / S: Eq. 6 to 14.

    d_ln, d_gn and d_bn now hold each pooled row's share of the gradient.
    """
    n, c = _rows(C, ROWS)
    inside = c < C
    row = n * C + c
    m = tl.load(moments + row, mask=inside, other=0)
    s0 = tl.load(sums + row, mask=inside, other=0)
    s1 = tl.load(sums + N * C + row, mask=inside, other=0)
    rstd = tl.load(sums + 2 * N * C + row, mask=inside, other=0)
    scale = _vector(weight, c, inside, 1.0, WEIGHT) * rstd
    g = c // (C // G)
    d_m = tl.zeros([ROWS], tl.float64)
    d_v = tl.zeros([ROWS], tl.float64)
    if IN >= 0:
        d_m += _ratio(ratios, 0, g, G, K, IN, inside) * (-scale * s0)
        r = _ratio(ratios, 1, g, G, K, IN, inside)
        d_v += r * (-0.5 * scale * rstd * s1)
    if LN >= 0:
        var = tl.load(d_ln + N + n)
        d_m += tl.load(d_ln + n) + 2 * (m - tl.load(ln + n)) * var
        d_v += var
    if GN >= 0:
        at = n * groups + c // (C // groups)
        var = tl.load(d_gn + N * groups + at, mask=inside, other=0)
        mean = tl.load(gn + at, mask=inside, other=0)
        d_m += tl.load(d_gn + at, mask=inside, other=0) + 2 * (m - mean) * var
        d_v += var
    if BATCH:
        var = tl.load(d_bn + C + c, mask=inside, other=0)
        mean = tl.load(bn + c, mask=inside, other=0)
        d_m += tl.load(d_bn + c, mask=inside, other=0) + 2 * (m - mean) * var
        d_v += var
    near = m.to(tl.float32)
    slope = 2 * spread * d_v / S
    shift = (d_m / S - slope * (m - near.to(tl.float64))).to(tl.float32)
    a, b = scale.to(tl.float32), slope.to(tl.float32)
    s = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = inside[:, None] & (s < S)[None, :]
    at = _tile(n, c, s, C, S, stride_c, stride_s)
    v = tl.load(x + at, mask=mask, other=0).to(tl.float32)
    u = tl.load(dy + at, mask=mask, other=0).to(tl.float32)
    out = a[:, None] * u + (b[:, None] * (v - near[:, None]) + shift[:, None])
    tl.store(dx + at, out.to(dx.dtype.element_ty), mask=mask)
