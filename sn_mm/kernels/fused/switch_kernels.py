# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of Switchable Normalization in Triton; x is not among them.

Numbers of rows are float64 (N, C) arrays, row n * C + c, ``count`` in all;
most kernels take tiles of SAMPLES by CHANNELS of them. Arrays of means and
variances hold all means first; ``half`` is 0 for means and 1 for variances.

IN, LN, GN and BN are the places of the statistics among the K ratios, -1 for
one that is not mixed. Pooled moments are those of a sample (ln, (2, N)), of a
sample's groups of channels (gn, (2, N, groups)) and of a channel (bn, (2, C)).
A sample, or one of its groups, is a run of ``width`` rows that follow each
other, so that LN pools as GN with one group does: tiles of POOLS by WIDTH.

Channels are in ``sets``, each with its own ratios: logits (sets, K). LOGITS
says whether ratios are the softmax of these, or these themselves, and DROPPED
which place gets no ratio (-1: none).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _wide(t, at, mask):
    return tl.load(t + at, mask=mask, other=0).to(tl.float64)


@triton.jit
def _tile(C, SAMPLES: tl.constexpr, CHANNELS: tl.constexpr):
    """Samples and channels of this program."""
    blocks = tl.cdiv(C, CHANNELS)
    program = tl.program_id(0)
    n = (program // blocks) * SAMPLES + tl.arange(0, SAMPLES)
    return n, (program % blocks) * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _ratio(
    logits,
    c,
    inside,
    C,
    sets,
    K: tl.constexpr,
    place: tl.constexpr,
    LOGITS: tl.constexpr,
    DROPPED: tl.constexpr,
):
    """Channels' ratio of one statistic.

    In float64: ratios that add up to 1 in float32 only spoil the gradients
    where means are large.
    """
    first = c // (C // sets) * K
    ratio = _wide(logits, first + place, inside)
    if LOGITS:
        largest = tl.zeros(c.shape, tl.float64) - float('inf')
        for k in tl.static_range(K):
            if k != DROPPED:
                largest = tl.maximum(largest, _wide(logits, first + k, inside))
        total = tl.zeros(c.shape, tl.float64)
        for k in tl.static_range(K):
            if k != DROPPED:
                total += tl.exp(_wide(logits, first + k, inside) - largest)
        ratio = tl.exp(ratio - largest) / total
        if place == DROPPED:
            ratio = tl.zeros(c.shape, tl.float64)
    return ratio


@triton.jit
def _mixed(
    moments,
    ln,
    gn,
    bn,
    logits,
    n,
    c,
    N,
    C,
    groups,
    sets,
    bessel,
    half: tl.constexpr,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    LOGITS: tl.constexpr,
    DROPPED: tl.constexpr,
):
    """What a tile's rows are normalized with: means or variances."""
    mask = (n < N)[:, None] & (c < C)[None, :]
    mixed = tl.zeros(mask.shape, tl.float64)
    if IN >= 0:
        ratio = _ratio(logits, c, c < C, C, sets, K, IN, LOGITS, DROPPED)
        if half:
            ratio *= bessel
        row = n[:, None] * C + c[None, :]
        mixed += ratio[None, :] * _wide(moments, half * N * C + row, mask)
    if LN >= 0:
        ratio = _ratio(logits, c, c < C, C, sets, K, LN, LOGITS, DROPPED)
        mixed += ratio[None, :] * _wide(ln, half * N + n, n < N)[:, None]
    if GN >= 0:
        ratio = _ratio(logits, c, c < C, C, sets, K, GN, LOGITS, DROPPED)
        at = (half * N + n)[:, None] * groups + (c // (C // groups))[None, :]
        mixed += ratio[None, :] * _wide(gn, at, mask)
    if BN >= 0:
        ratio = _ratio(logits, c, c < C, C, sets, K, BN, LOGITS, DROPPED)
        mixed += (ratio * _wide(bn, half * C + c, c < C))[None, :]
    return mixed


@triton.jit
def _pool_runs(
    moments,
    pools,
    program,
    count,
    width,
    bessel,
    POOLS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Moments of runs of ``width`` rows, in the form that does not cancel.

    mean(m), and mean(v) + var(m).
    """
    pool = program * POOLS + tl.arange(0, POOLS)
    number = count // width
    total = tl.zeros([POOLS, WIDTH], tl.float64)
    for first in range(0, width, WIDTH):
        e = first + tl.arange(0, WIDTH)
        mask = (pool < number)[:, None] & (e < width)[None, :]
        row = pool[:, None] * width + e[None, :]
        total += _wide(moments, row, mask)
    mean = tl.sum(total, 1) / width
    total = tl.zeros([POOLS, WIDTH], tl.float64)
    for first in range(0, width, WIDTH):
        e = first + tl.arange(0, WIDTH)
        mask = (pool < number)[:, None] & (e < width)[None, :]
        row = pool[:, None] * width + e[None, :]
        d = _wide(moments, row, mask) - mean[:, None]
        total += tl.where(mask, d * d, 0.0)
        total += bessel * _wide(moments, count + row, mask)
    tl.store(pools + pool, mean, mask=pool < number)
    variance = tl.sum(total, 1) / width
    tl.store(pools + number + pool, variance, mask=pool < number)


@triton.jit
def _pool_channels(
    moments,
    pools,
    program,
    N,
    C,
    bessel,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Moments of channels over the samples, in the same form."""
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    for first in range(0, N, SAMPLES):
        n = first + tl.arange(0, SAMPLES)
        mask = (n < N)[:, None] & (c < C)[None, :]
        total += _wide(moments, n[:, None] * C + c[None, :], mask)
    mean = tl.sum(total, 0) / N
    total = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    for first in range(0, N, SAMPLES):
        n = first + tl.arange(0, SAMPLES)
        mask = (n < N)[:, None] & (c < C)[None, :]
        row = n[:, None] * C + c[None, :]
        d = _wide(moments, row, mask) - mean[None, :]
        total += tl.where(mask, d * d, 0.0)
        total += bessel * _wide(moments, N * C + row, mask)
    tl.store(pools + c, mean, mask=c < C)
    tl.store(pools + C + c, tl.sum(total, 0) / N, mask=c < C)


@triton.jit(do_not_specialize=['N', 'C', 'groups', 'bessel'])
def pool_kernel(
    moments,
    given_mean,
    given_var,
    ln,
    gn,
    bn,
    N,
    C,
    groups,
    bessel,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    GIVEN: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    LN_POOLS: tl.constexpr,
    LN_WIDTH: tl.constexpr,
    GN_POOLS: tl.constexpr,
    GN_WIDTH: tl.constexpr,
):
    """Pooled moments from those of the rows.

    With GIVEN, bn's are given_mean and given_var (C,) instead. Grid: programs
    for ln, then for gn, then for bn.
    """
    program = tl.program_id(0)
    if LN >= 0:
        number = tl.cdiv(N, LN_POOLS)
        if program < number:
            _pool_runs(
                moments, ln, program, N * C, C, bessel, LN_POOLS, LN_WIDTH
            )
        program -= number
    if GN >= 0:
        number = tl.cdiv(N * groups, GN_POOLS)
        if (program >= 0) & (program < number):
            _pool_runs(
                moments,
                gn,
                program,
                N * C,
                C // groups,
                bessel,
                GN_POOLS,
                GN_WIDTH,
            )
        program -= number
    if BN >= 0:
        if program >= 0:
            if GIVEN:
                c = program * CHANNELS + tl.arange(0, CHANNELS)
                mean = _wide(given_mean, c, c < C)
                tl.store(bn + c, mean, mask=c < C)
                var = _wide(given_var, c, c < C)
                tl.store(bn + C + c, var, mask=c < C)
            else:
                _pool_channels(
                    moments, bn, program, N, C, bessel, SAMPLES, CHANNELS
                )


@triton.jit(do_not_specialize=['N', 'C', 'groups', 'sets', 'bessel', 'eps'])
def factors_kernel(
    moments,
    ln,
    gn,
    bn,
    mean_logits,
    var_logits,
    weight,
    bias,
    factors,
    N,
    C,
    groups,
    sets,
    bessel,
    eps,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    LOGITS: tl.constexpr,
    DROPPED: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """near, scale and shift of every row, factors (3, N, C) in float32.

    scale * (x - near) + shift = weight * (x - mu) / sqrt(var + eps) + bias.
    """
    n, c = _tile(C, SAMPLES, CHANNELS)
    mask = (n < N)[:, None] & (c < C)[None, :]
    mu = _mixed(
        moments, ln, gn, bn, mean_logits, n, c, N, C, groups, sets, bessel,
        0, K, IN, LN, GN, BN, LOGITS, DROPPED,
    )  # fmt: skip
    var = _mixed(
        moments, ln, gn, bn, var_logits, n, c, N, C, groups, sets, bessel,
        1, K, IN, LN, GN, BN, LOGITS, DROPPED,
    )  # fmt: skip
    scale = 1 / tl.sqrt(var + eps)
    if WEIGHT:
        scale *= _wide(weight, c, c < C)[None, :]
    row = n[:, None] * C + c[None, :]
    near = _wide(moments, row, mask).to(tl.float32)
    shift = -scale * (mu - near.to(tl.float64))
    if BIAS:
        shift += _wide(bias, c, c < C)[None, :]
    tl.store(factors + row, near, mask=mask)
    tl.store(factors + N * C + row, scale.to(tl.float32), mask=mask)
    tl.store(factors + 2 * N * C + row, shift.to(tl.float32), mask=mask)


@triton.jit
def _keep_ratio(
    ratios,
    logits,
    c,
    inside,
    C,
    sets,
    half: tl.constexpr,
    K: tl.constexpr,
    place: tl.constexpr,
    LOGITS: tl.constexpr,
    DROPPED: tl.constexpr,
):
    """Store channels' ratio of one statistic, ratios (2, K, C)."""
    ratio = _ratio(logits, c, inside, C, sets, K, place, LOGITS, DROPPED)
    tl.store(ratios + (half * K + place) * C + c, ratio, mask=inside)


@triton.jit(do_not_specialize=['N', 'C', 'groups', 'sets', 'bessel', 'eps'])
def rowgrads_kernel(
    moments,
    sums,
    ln,
    gn,
    bn,
    mean_logits,
    var_logits,
    weight,
    grads,
    scales,
    ratios,
    N,
    C,
    groups,
    sets,
    bessel,
    eps,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    LOGITS: tl.constexpr,
    DROPPED: tl.constexpr,
    WEIGHT: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients of every row's mixed mean, mixed variance and weight.

    sums (2, N, C): sum(dy) and sum(dy * (x - near)). grads: (3, N, C); scales
    (N, C), float32: weight / sqrt(var + eps); ratios (2, K, C): of every
    channel, for the kernels that follow.
    """
    n, c = _tile(C, SAMPLES, CHANNELS)
    inside = c < C
    mask = (n < N)[:, None] & inside[None, :]
    mu = _mixed(
        moments, ln, gn, bn, mean_logits, n, c, N, C, groups, sets, bessel,
        0, K, IN, LN, GN, BN, LOGITS, DROPPED,
    )  # fmt: skip
    var = _mixed(
        moments, ln, gn, bn, var_logits, n, c, N, C, groups, sets, bessel,
        1, K, IN, LN, GN, BN, LOGITS, DROPPED,
    )  # fmt: skip
    row = n[:, None] * C + c[None, :]
    rstd = 1 / tl.sqrt(var + eps)
    scale = rstd
    if WEIGHT:
        scale *= _wide(weight, c, inside)[None, :]
    near = _wide(moments, row, mask).to(tl.float32).to(tl.float64)
    s0 = _wide(sums, row, mask)
    # sum(dy * (x - mu)) / sqrt(var + eps)
    d_weight = (_wide(sums, N * C + row, mask) - (mu - near) * s0) * rstd
    tl.store(grads + row, -scale * s0, mask=mask)
    d_var = -0.5 * scale * rstd * d_weight
    tl.store(grads + N * C + row, d_var, mask=mask)
    tl.store(grads + 2 * N * C + row, d_weight, mask=mask)
    tl.store(scales + row, scale.to(tl.float32), mask=mask)
    if tl.program_id(0) < tl.cdiv(C, CHANNELS):
        for place in tl.static_range(K):
            _keep_ratio(
                ratios, mean_logits, c, inside, C, sets, 0, K, place, LOGITS,
                DROPPED,
            )  # fmt: skip
            _keep_ratio(
                ratios, var_logits, c, inside, C, sets, 1, K, place, LOGITS,
                DROPPED,
            )  # fmt: skip


@triton.jit
def _sum_runs(
    grads,
    ratios,
    d_pools,
    program,
    count,
    C,
    width,
    K: tl.constexpr,
    place: tl.constexpr,
    POOLS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Gradients of the means and variances of runs of ``width`` rows."""
    pool = program * POOLS + tl.arange(0, POOLS)
    number = count // width
    d_mean = tl.zeros([POOLS, WIDTH], tl.float64)
    d_var = tl.zeros([POOLS, WIDTH], tl.float64)
    for first in range(0, width, WIDTH):
        e = first + tl.arange(0, WIDTH)
        mask = (pool < number)[:, None] & (e < width)[None, :]
        row = pool[:, None] * width + e[None, :]
        c = row % C
        ratio = _wide(ratios, place * C + c, mask)
        d_mean += ratio * _wide(grads, row, mask)
        ratio = _wide(ratios, (K + place) * C + c, mask)
        d_var += ratio * _wide(grads, count + row, mask)
    tl.store(d_pools + pool, tl.sum(d_mean, 1), mask=pool < number)
    at = d_pools + number + pool
    tl.store(at, tl.sum(d_var, 1), mask=pool < number)


@triton.jit
def _keep_sums(
    d_ratios, c, inside, C, K: tl.constexpr, place: tl.constexpr, mean, var
):
    """Store channels' gradients of one statistic's ratios, (2, K, C)."""
    tl.store(d_ratios + place * C + c, mean, mask=inside)
    tl.store(d_ratios + (K + place) * C + c, var, mask=inside)


@triton.jit
def _sum_channels(
    moments,
    sums,
    ln,
    gn,
    bn,
    grads,
    ratios,
    d_weight,
    d_bias,
    d_ratios,
    d_bn,
    program,
    N,
    C,
    groups,
    bessel,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    BATCH: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """What sums over the samples give: all gradients of channels."""
    count = N * C
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < C
    all_weight = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    all_bias = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    all_mean = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    all_var = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    in_mean = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    in_var = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    ln_mean = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    ln_var = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    gn_mean = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    gn_var = tl.zeros([SAMPLES, CHANNELS], tl.float64)
    for first in range(0, N, SAMPLES):
        n = first + tl.arange(0, SAMPLES)
        mask = (n < N)[:, None] & inside[None, :]
        row = n[:, None] * C + c[None, :]
        d_mean = _wide(grads, row, mask)
        d_var = _wide(grads, count + row, mask)
        all_mean += d_mean
        all_var += d_var
        if WEIGHT:
            all_weight += _wide(grads, 2 * count + row, mask)
        if BIAS:
            all_bias += _wide(sums, row, mask)
        if IN >= 0:
            in_mean += d_mean * _wide(moments, row, mask)
            in_var += d_var * _wide(moments, count + row, mask)
        if LN >= 0:
            # one for each value of the tile: a vector would have to be
            # handed from thread to thread in every round
            at = n[:, None] + 0 * c[None, :]
            ln_mean += d_mean * _wide(ln, at, mask)
            ln_var += d_var * _wide(ln, N + at, mask)
        if GN >= 0:
            at = n[:, None] * groups + (c // (C // groups))[None, :]
            gn_mean += d_mean * _wide(gn, at, mask)
            gn_var += d_var * _wide(gn, N * groups + at, mask)
    if WEIGHT:
        total = tl.sum(all_weight, 0)
        tl.store(d_weight + c, total.to(tl.float32), mask=inside)
    if BIAS:
        total = tl.sum(all_bias, 0)
        tl.store(d_bias + c, total.to(tl.float32), mask=inside)
    if IN >= 0:
        mean, var = tl.sum(in_mean, 0), tl.sum(in_var, 0) * bessel
        _keep_sums(d_ratios, c, inside, C, K, IN, mean, var)
    if LN >= 0:
        mean, var = tl.sum(ln_mean, 0), tl.sum(ln_var, 0)
        _keep_sums(d_ratios, c, inside, C, K, LN, mean, var)
    if GN >= 0:
        mean, var = tl.sum(gn_mean, 0), tl.sum(gn_var, 0)
        _keep_sums(d_ratios, c, inside, C, K, GN, mean, var)
    if BN >= 0:
        d_mean, d_var = tl.sum(all_mean, 0), tl.sum(all_var, 0)
        mean = d_mean * _wide(bn, c, inside)
        var = d_var * _wide(bn, C + c, inside)
        _keep_sums(d_ratios, c, inside, C, K, BN, mean, var)
        if BATCH:
            d_mean *= _wide(ratios, BN * C + c, inside)
            d_var *= _wide(ratios, (K + BN) * C + c, inside)
            tl.store(d_bn + c, d_mean, mask=inside)
            tl.store(d_bn + C + c, d_var, mask=inside)


@triton.jit(do_not_specialize=['N', 'C', 'groups', 'bessel'])
def gradpool_kernel(
    moments,
    sums,
    ln,
    gn,
    bn,
    grads,
    ratios,
    d_weight,
    d_bias,
    d_ratios,
    d_ln,
    d_gn,
    d_bn,
    N,
    C,
    groups,
    bessel,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BN: tl.constexpr,
    BATCH: tl.constexpr,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    LN_POOLS: tl.constexpr,
    LN_WIDTH: tl.constexpr,
    GN_POOLS: tl.constexpr,
    GN_WIDTH: tl.constexpr,
):
    """Sums of the rows' gradients over whatever the rows share.

    d_weight, d_bias (C,), float32; d_ratios (2, K, C), of every channel's;
    d_ln, d_gn and, with BATCH, d_bn: of the pooled moments. Grid: as for
    pool_kernel, but always with programs for channels.
    """
    program = tl.program_id(0)
    if LN >= 0:
        number = tl.cdiv(N, LN_POOLS)
        if program < number:
            _sum_runs(
                grads, ratios, d_ln, program, N * C, C, C, K, LN, LN_POOLS,
                LN_WIDTH,
            )  # fmt: skip
        program -= number
    if GN >= 0:
        number = tl.cdiv(N * groups, GN_POOLS)
        if (program >= 0) & (program < number):
            _sum_runs(
                grads, ratios, d_gn, program, N * C, C, C // groups, K, GN,
                GN_POOLS, GN_WIDTH,
            )  # fmt: skip
        program -= number
    if program >= 0:
        _sum_channels(
            moments, sums, ln, gn, bn, grads, ratios, d_weight, d_bias,
            d_ratios, d_bn, program, N, C, groups, bessel, K, IN, LN, GN, BN,
            BATCH, WEIGHT, BIAS, SAMPLES, CHANNELS,
        )  # fmt: skip


@triton.jit
def _logit_grads(
    ratios,
    d_ratios,
    d_logits,
    one_set,
    half: tl.constexpr,
    C,
    sets,
    K: tl.constexpr,
    PLACES: tl.constexpr,
    WIDTH: tl.constexpr,
    LOGITS: tl.constexpr,
):
    """Gradients of one set of K logits, through the softmax."""
    place = tl.arange(0, PLACES)
    inside = place < K
    width = C // sets
    total = tl.zeros([PLACES, WIDTH], tl.float64)
    for first in range(0, width, WIDTH):
        e = first + tl.arange(0, WIDTH)
        mask = inside[:, None] & (e < width)[None, :]
        at = (half * K + place)[:, None] * C + one_set * width + e[None, :]
        total += _wide(d_ratios, at, mask)
    grad = tl.sum(total, 1)
    if LOGITS:
        at = (half * K + place) * C + one_set * width
        ratio = _wide(ratios, at, inside)
        grad = ratio * (grad - tl.sum(ratio * grad, 0))
    at = d_logits + one_set * K + place
    tl.store(at, grad.to(tl.float32), mask=inside)


@triton.jit(
    do_not_specialize=['N', 'C', 'size', 'groups', 'sets', 'bn_rows', 'bessel']
)
def dfactors_kernel(
    moments,
    ln,
    gn,
    bn,
    grads,
    ratios,
    d_ratios,
    d_ln,
    d_gn,
    d_bn,
    coefficients,
    d_mean_logits,
    d_var_logits,
    N,
    C,
    size,
    groups,
    sets,
    bn_rows,
    bessel,
    K: tl.constexpr,
    IN: tl.constexpr,
    LN: tl.constexpr,
    GN: tl.constexpr,
    BATCH: tl.constexpr,
    LOGITS: tl.constexpr,
    SAMPLES: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLACES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """slope and shift of every row, and the gradients of the logits.

    dx = scale * dy + slope * (x - near) + shift, after Eq. 6 to 14;
    coefficients (3, N, C) hold the scales already. d_bn is shared by
    ``bn_rows`` rows. Grid: tiles of rows, then the sets of ratios.
    """
    tiles = tl.cdiv(N, SAMPLES) * tl.cdiv(C, CHANNELS)
    program = tl.program_id(0)
    if program >= tiles:
        one_set = program - tiles
        _logit_grads(
            ratios, d_ratios, d_mean_logits, one_set, 0, C, sets, K, PLACES,
            WIDTH, LOGITS,
        )  # fmt: skip
        _logit_grads(
            ratios, d_ratios, d_var_logits, one_set, 1, C, sets, K, PLACES,
            WIDTH, LOGITS,
        )  # fmt: skip
    else:
        count = N * C
        n, c = _tile(C, SAMPLES, CHANNELS)
        inside = c < C
        mask = (n < N)[:, None] & inside[None, :]
        row = n[:, None] * C + c[None, :]
        m = _wide(moments, row, mask)
        d_mean = tl.zeros([SAMPLES, CHANNELS], tl.float64)
        d_var = tl.zeros([SAMPLES, CHANNELS], tl.float64)
        # A pooled variance holds mean((m - mean) ** 2) and so pulls at m too.
        if IN >= 0:
            ratio = _wide(ratios, IN * C + c, inside)[None, :]
            d_mean += ratio * _wide(grads, row, mask)
            ratio = _wide(ratios, (K + IN) * C + c, inside)[None, :]
            d_var += ratio * _wide(grads, count + row, mask)
        if LN >= 0:
            share = _wide(d_ln, N + n, n < N)[:, None] / C
            off = m - _wide(ln, n, n < N)[:, None]
            d_mean += _wide(d_ln, n, n < N)[:, None] / C + 2 * off * share
            d_var += share
        if GN >= 0:
            width = C // groups
            at = n[:, None] * groups + (c // width)[None, :]
            share = _wide(d_gn, N * groups + at, mask) / width
            off = m - _wide(gn, at, mask)
            d_mean += _wide(d_gn, at, mask) / width + 2 * off * share
            d_var += share
        if BATCH:
            share = _wide(d_bn, C + c, inside)[None, :] / bn_rows
            off = m - _wide(bn, c, inside)[None, :]
            pull = _wide(d_bn, c, inside)[None, :] / bn_rows
            d_mean += pull + 2 * off * share
            d_var += share
        slope = 2 * bessel * d_var / size
        rest = m - m.to(tl.float32).to(tl.float64)
        shift = d_mean / size - slope * rest
        at = coefficients + count + row
        tl.store(at, slope.to(tl.float32), mask=mask)
        tl.store(at + count, shift.to(tl.float32), mask=mask)


@triton.jit(do_not_specialize=['C', 'momentum'])
def move_kernel(
    mean,
    var,
    count,
    pooled,
    C,
    momentum,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Running statistics (C,) on their way to a batch's, by one program.

    pooled: (2, C) means and variances; with POSITIONS also how many
    positions they count, (C,).
    """
    channels = tl.arange(0, CHANNELS)
    spoilt = tl.zeros((CHANNELS,), tl.int32)
    for first in range(0, C, CHANNELS):
        c = first + channels
        for half in tl.static_range(2):
            t = _wide(pooled, half * C + c, c < C).to(tl.float32)
            spoilt += tl.where(t - t == 0, 0, 1)  # infinite or no number
    seen = tl.sum(spoilt, 0) == 0
    if POSITIONS:
        seen = seen & (tl.load(pooled + 2 * C) > 0)
    if seen:
        for first in range(0, C, CHANNELS):
            c = first + channels
            m, v = _wide(mean, c, c < C), _wide(var, c, c < C)
            m += momentum * (_wide(pooled, c, c < C) - m)
            v += momentum * (_wide(pooled, C + c, c < C) - v)
            tl.store(mean + c, m.to(tl.float32), mask=c < C)
            tl.store(var + c, v.to(tl.float32), mask=c < C)
        tl.store(count, tl.load(count) + 1)
