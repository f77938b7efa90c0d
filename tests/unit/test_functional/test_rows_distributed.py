# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Rules that the package does not know, over processes: the whole batch's.

One of three processes has no samples at all.
"""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from torch.autograd.profiler import profile

from sn_mm.functional import normalize_rows, statistics
from tests.distributed import run_processes
from tests.utils import relative_error

from .foreign_rules import EPS, draw, over_positions, positive

SAMPLES = (5, 2, 0)
CHANNELS = 6
EXTENT = (7, 5)
PARAMS = [
    positive(CHANNELS, seed=3),
    draw(CHANNELS, seed=4),
    draw(CHANNELS, seed=11),
    positive(CHANNELS, seed=12),
    draw(1, seed=13),
]


class MixedBatch:
    """Half instance, half batch; the batch's half mixed with given moments.

    The moments that it used go out as extras, with gradients.
    """

    def __init__(self, process_group=None):
        self.process_group = process_group

    def __call__(self, m, v, size, weight, bias, mean_in, var_in, gain):
        half = m.shape[1] // 2
        mean, var = statistics.batch(m, v, size, self.process_group)
        p = gain.to(m.dtype).sigmoid()
        mean = p * mean + (1 - p) * mean_in
        var = p * var + (1 - p) * var_in
        centre = torch.cat([m[:, :half], mean.expand_as(m)[:, half:]], 1)
        spread = torch.cat([v[:, :half], var.expand_as(v)[:, half:]], 1)
        scale = weight * (spread + EPS).rsqrt()
        return centre, scale, bias, mean[0], var[0]


def oracle(x, weight, bias, mean_in, var_in, gain):
    half = x.shape[1] // 2
    mean = x.mean((0, 2, 3))
    var = x.var((0, 2, 3), unbiased=False)
    p = gain.sigmoid()
    mean = p * mean + (1 - p) * mean_in
    var = p * var + (1 - p) * var_in
    own = x[:, :half]
    parts = [
        (own - own.mean((2, 3), keepdim=True))
        / (own.var((2, 3), unbiased=False, keepdim=True) + EPS).sqrt(),
        (x[:, half:] - over_positions(mean[None, half:], x))
        / over_positions((var[None, half:] + EPS).sqrt(), x),
    ]
    y = torch.cat(parts, 1) * over_positions(weight[None], x)
    return y + over_positions(bias[None], x), mean, var


def whole_batch():
    n = sum(SAMPLES)
    offsets = 3 * draw(n, CHANNELS, 1, 1, seed=20)
    return draw(n, CHANNELS, *EXTENT, seed=21) + offsets, draw(
        n, CHANNELS, *EXTENT, seed=22
    )


def step(function, x, dy, extras_count: int):
    """Outputs, gradients; extras count in this many processes' losses."""
    x = x.clone().requires_grad_()
    params = [p.to(x.dtype).requires_grad_() for p in PARAMS]
    y, mean, var = function(x, *params)
    loss = (y * dy).sum() + extras_count * (
        (mean * draw(CHANNELS, seed=23).to(mean.dtype)).sum()
        + (var * draw(CHANNELS, seed=24).to(var.dtype)).sum()
    )
    grads = torch.autograd.grad(loss, (x, *params), create_graph=False)
    return [y.detach(), mean.detach(), var.detach(), *grads]


def shard(rank: int):
    start = sum(SAMPLES[:rank])
    return [t[start : start + SAMPLES[rank]] for t in whole_batch()]


def run_rank(dtype, rank: int):
    rule = MixedBatch(dist.group.WORLD)
    x, dy = (t.to(dtype) for t in shard(rank))

    def function(x, *params):
        return normalize_rows(x, rule, *params)

    with profile() as profiler:
        values = step(function, x, dy, 1)
    names = [e.name for e in profiler.function_events]
    alone = normalize_rows(x, MixedBatch(), *(p.to(dtype) for p in PARAMS))
    return values, [n for n in names if n.startswith('c10d::')], alone


def run_second(rank: int):
    """Gradients of the squared gradients of x, summed over processes."""
    rule = MixedBatch(dist.group.WORLD)
    x, dy = (t.double() for t in shard(rank))
    x.requires_grad_()
    params = [p.double().requires_grad_() for p in PARAMS]
    y, *_ = normalize_rows(x, rule, *params)
    (first,) = torch.autograd.grad((y.pow(3) * dy).sum(), x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), (x, *params[:2]))


@functools.cache
def results(dtype):
    return run_processes(functools.partial(run_rank, dtype), len(SAMPLES))


@pytest.mark.parametrize(
    'dtype, outputs, gradients',
    [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-11, 1e-11)],
)
def test_is_the_whole_batch(dtype, outputs, gradients):
    x, dy = (t.double() for t in whole_batch())
    want = step(oracle, x, dy, len(SAMPLES))
    parts = [values for values, _, _ in results(dtype)]
    y, d_x = (torch.cat([part[i] for part in parts]) for i in (0, 3))
    assert relative_error(y, want[0]) < outputs
    assert relative_error(d_x, want[3]) < gradients
    for part in parts:  # everybody has the same moments
        assert relative_error(part[1], want[1]) < outputs
        assert relative_error(part[2], want[2]) < outputs
    for i in range(4, len(want)):
        total = sum(part[i] for part in parts)
        assert relative_error(total, want[i]) < gradients, i


def test_one_collective_each_way():
    for _, names, _ in results(torch.float32):
        assert len(names) == 2
        assert 'gather' in names[0] and 'reduce' in names[1]


def test_without_a_group_a_process_pools_its_own():
    x, _ = shard(0)
    want = oracle(x.double(), *(p.double() for p in PARAMS))
    _, _, alone = results(torch.float32)[0]
    for got, value in zip(alone, want):
        assert relative_error(got, value) < 1e-5


def test_second_derivatives_span_the_processes():
    x, dy = (t.double() for t in whole_batch())
    x.requires_grad_()
    params = [p.double().requires_grad_() for p in PARAMS]
    y, *_ = oracle(x, *params)
    (first,) = torch.autograd.grad((y.pow(3) * dy).sum(), x, create_graph=True)
    want = torch.autograd.grad(first.square().sum(), (x, *params[:2]))
    parts = run_processes(run_second, len(SAMPLES))
    assert relative_error(torch.cat([p[0] for p in parts]), want[0]) < 1e-9
    for i in (1, 2):
        assert relative_error(sum(p[i] for p in parts), want[i]) < 1e-9


def run_outsider(rank: int):
    group = dist.new_group([0, 1])
    if rank < 2:
        return None
    m = torch.ones(2, 3).double()
    with pytest.raises(ValueError, match='is not in the process_group'):
        statistics.batch(m, m, 4, group)
    return 'refused'


def test_a_group_that_this_process_is_not_in():
    assert run_processes(run_outsider, len(SAMPLES))[2] == 'refused'
