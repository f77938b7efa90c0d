# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SyncSN on several gloo processes: SN on the joined batch.

Processes are slow to start: one start for each number of processes runs all
cases, and the tests look at what came back.
"""

from __future__ import annotations

import functools
from itertools import combinations
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sn_mm import SN2d, SyncSN
from sn_mm.functional import switchable_norm_reference
from tests.distributed import run_processes
from tests.utils import assert_close, randomize, relative_error, run

CHANNELS = 8
EXTENT = (5, 4)
SAMPLES = {2: (3, 1), 3: (1, 0, 4), 4: (2, 1, 0, 3)}
# Shards of other sizes: one is empty, one has a single position.
SHAPES = {
    2: ((2, 5, 4), (3, 2, 9)),
    3: ((2, 5, 4), (0, 3, 3), (1, 7, 2)),
    4: ((2, 5, 4), (3, 1, 1), (0, 3, 3), (1, 7, 2)),
}
WORLDS = pytest.mark.parametrize('world', SAMPLES)
FLOAT32 = 2e-4  # of float32 passes, for outputs and gradients


class Case(NamedTuple):
    statistics: tuple[str, ...] = ('in', 'ln', 'bn')
    unbiased: bool = False
    ratio_groups: int = 1
    momentum: float | None = 0.1
    mean: float = 0.5
    mixed_sizes: bool = False
    empty: bool = False

    def shards(self, world: int) -> list[tuple[Tensor, Tensor]]:
        """Each process's input and output gradient."""
        shapes = [(n, *EXTENT) for n in SAMPLES[world]]
        if self.mixed_sizes:
            shapes = SHAPES[world]
        if self.empty:
            shapes = [(0, *EXTENT)] * world
        gen = torch.Generator().manual_seed(1)
        return [
            tuple(
                torch.randn(n, CHANNELS, *extent, generator=gen) + offset
                for offset in (self.mean, 0)
            )
            for n, *extent in shapes
        ]

    def layer(self, cls: type[SN2d], **kwargs) -> SN2d:
        layer = cls(
            CHANNELS,
            statistics=self.statistics,
            unbiased=self.unbiased,
            ratio_groups=self.ratio_groups,
            momentum=self.momentum,
            num_groups=4,
            **kwargs,
        )
        return randomize(layer)


SUBSETS = [
    (*others[:1], 'bn', *others[1:])
    for k in range(4)
    for others in combinations(('in', 'ln', 'gn'), k)
]
CASES = {
    f'{"+".join(names)}{"-unbiased" * unbiased}': Case(names, unbiased)
    for names in SUBSETS
    for unbiased in (False, True)
}
CASES['ratio groups'] = Case(ratio_groups=4)
CASES['large mean'] = Case(mean=1e4)
CASES['cumulative average'] = Case(momentum=None)
MIXED = {
    f'{name}, mixed sizes': case._replace(mixed_sizes=True)
    for name, case in CASES.items()
}
EMPTY = {'all empty': Case(empty=True)}


def buffers(layer: SN2d) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in layer.named_buffers()}


def run_cases(world: int, rank: int) -> dict[str, tuple[dict, dict]]:
    """Of each case, this process's output and gradients, and buffers."""
    results = {}
    for name, case in {**CASES, **MIXED, **EMPTY}.items():
        layer = case.layer(SyncSN)
        values = run(layer, *case.shards(world)[rank])
        results[name] = values, buffers(layer)
    return results


@functools.cache
def results(world: int) -> list[dict[str, tuple[dict, dict]]]:
    return run_processes(functools.partial(run_cases, world), world)


def joined(parts: list[dict[str, Tensor]], whole: bool) -> dict[str, Tensor]:
    """Outputs side by side, parameter gradients summed over processes.

    Args:
        whole: whether the outputs fit into one tensor.
    """
    values = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if name not in ('x', 'y'):
            values[name] = torch.stack(tensors).sum(0)
        elif whole:
            values[name] = torch.cat(tensors)
        else:
            values.update({f'{name}{i}': t for i, t in enumerate(tensors)})
    return values


def oracle(case: Case, shards: list[tuple[Tensor, Tensor]]):
    """Values of :func:`joined` and BN's moments, by float64 autograd.

    BN's moments are taken over all positions of all shards; the rest is the
    reference on each shard.
    """
    layer = case.layer(SN2d).double()
    xs = [x.double().requires_grad_() for x, _ in shards]
    mean, var = _joint_moments([x.flatten(2) for x in xs], case.unbiased)
    ys = [
        switchable_norm_reference(
            x,
            layer.mean_weight,
            layer.var_weight,
            layer.weight,
            layer.bias,
            mean,
            var,
            statistics=case.statistics,
            unbiased=case.unbiased,
            num_groups=layer.num_groups,
        )
        if len(x)
        else x
        for x in xs
    ]
    loss = sum((y * dy).sum() for y, (_, dy) in zip(ys, shards))
    names, params = zip(*layer.named_parameters())
    grads = torch.autograd.grad(loss, (*xs, *params))
    values = dict(zip(names, grads[len(xs) :]))
    for i, (y, dx) in enumerate(zip(ys, grads)):
        values[f'y{i}'], values[f'x{i}'] = y.detach(), dx
    return values, mean.detach(), var.detach()


def _joint_moments(flat: list[Tensor], unbiased: bool):
    total = sum(x.shape[0] * x.shape[2] for x in flat)
    mean = sum(x.sum((0, 2)) for x in flat) / total
    squares = sum((x - mean[:, None]).square().sum((0, 2)) for x in flat)
    if unbiased:
        # S / (S - 1) of the variance within rows: 1 / (S - 1) in addition
        squares = squares + sum(
            (x.var(2, unbiased=False) / (x.shape[2] - 1)).sum(0) * x.shape[2]
            for x in flat
            if len(x) and x.shape[2] > 1
        )
    return mean, squares / total


@WORLDS
@pytest.mark.parametrize('name', CASES)
def test_equals_sn_on_the_whole_batch(world, name):
    case = CASES[name]
    got = joined([r[name][0] for r in results(world)], whole=True)
    plain = case.layer(SN2d)
    shards = case.shards(world)
    want = run(plain, *(torch.cat(t) for t in zip(*shards)))
    assert_close({'y': got.pop('y')}, {'y': want.pop('y')}, 1e-5)
    assert_close(got, want, 1e-4)
    for part in results(world):
        assert_close(part[name][1], buffers(plain), 1e-5)


@WORLDS
@pytest.mark.parametrize('name', MIXED)
def test_shards_of_other_sizes_count_by_position(world, name):
    case = MIXED[name]
    got = joined([r[name][0] for r in results(world)], whole=False)
    want, mean, var = oracle(case, case.shards(world))
    # at a mean of 1e4, x itself has three digits of its fluctuation
    assert_close(got, want, 1e-2 if case.mean > 1 else FLOAT32)
    before = buffers(case.layer(SN2d))
    step = case.momentum or 1.0  # the first of a cumulative average
    for part in results(world):
        after = part[name][1]
        for moment, value in (('mean', mean), ('var', var)):
            key = f'running_{moment}'
            moved = before[key].double().lerp(value, step)
            assert relative_error(after[key], moved) < 1e-5
        assert after['num_batches_tracked'] == 1


@WORLDS
def test_no_samples_anywhere(world):
    (case,) = EMPTY.values()
    before = buffers(case.layer(SN2d))
    for part in results(world):
        values, after = part['all empty']
        assert values['y'].shape == values['x'].shape == (0, 8, *EXTENT)
        assert not any(values[name].any() for name in values)
        assert all(torch.equal(after[key], before[key]) for key in before)


@WORLDS
def test_processes_agree_bit_for_bit(world):
    first, *others = results(world)
    for name, (_, want) in first.items():
        for other in others:
            got = other[name][1]
            assert all(torch.equal(got[k], want[k]) for k in want), name
