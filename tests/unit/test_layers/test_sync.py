# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SyncSN on several gloo processes: SN on the joined batch.

Processes are slow to start: one start for each number of processes runs all
cases, and the tests look at what came back.
"""

from __future__ import annotations

import copy
import functools
import pickle
from itertools import combinations
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from mmcv.cnn import build_norm_layer
from torch import Tensor
from torch.autograd.profiler import profile

from sn_mm import SN2d, SyncSN
from sn_mm.distributed import groups
from sn_mm.distributed.groups import named_group
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
# What a layer computes does not depend on how many share it: three processes,
# one without samples, run every case, two and four some.
EVERYTHING = 3
FEW = {'bn', 'in+bn+ln-unbiased', 'cumulative average', 'all empty'}


def cases_on(world: int) -> dict[str, Case]:
    """What so many processes run."""
    return {
        name: case
        for name, case in {**CASES, **MIXED, **EMPTY}.items()
        if world == EVERYTHING or name.partition(',')[0] in FEW
    }


def on_worlds(cases: dict[str, Case]) -> pytest.MarkDecorator:
    """Every number of processes with those of the cases that it runs."""
    pairs = [
        (world, name)
        for world in SAMPLES
        for name in cases_on(world)
        if name in cases
    ]
    return pytest.mark.parametrize('world, name', pairs)


def buffers(layer: SN2d) -> dict[str, Tensor]:
    return {name: b.clone() for name, b in layer.named_buffers()}


class Result(NamedTuple):
    """One process's part of a case."""

    values: dict[str, Tensor]  # output and gradients
    buffers: dict[str, Tensor]
    training: list[str]  # collectives of forward and backward
    evaluation: list[str]


def collectives(profiler: profile) -> list[str]:
    """What went to the process groups, by the operators' own names."""
    names = [event.name for event in profiler.function_events]
    return [name for name in names if name.startswith('c10d::')]


def run_case(layer: SN2d, x: Tensor, dy: Tensor) -> Result:
    with profile() as training:
        values = run(layer, x, dy)
    state = buffers(layer)
    layer.eval()
    with profile() as evaluation:
        layer(x)
    return Result(
        values, state, collectives(training), collectives(evaluation)
    )


def run_cases(world: int, rank: int) -> dict[str, Result]:
    """Everything that needs ``world`` processes; this one's results."""
    named_group()  # made by then: what follows counts collectives
    results = {
        name: run_case(case.layer(SyncSN), *case.shards(world)[rank])
        for name, case in cases_on(world).items()
    }
    for name, layer in silent_layers().items():
        results[name] = run_case(layer, *Case().shards(world)[rank])
    if world == 4:
        results.update(run_groups(rank))
    return results


def silent_layers() -> dict[str, SN2d]:
    """Layers that have nothing to synchronize."""
    return {
        'without BN': Case(('in', 'ln')).layer(SyncSN),
        'bn_eval': Case().layer(SyncSN, bn_eval=True),
        'groups of one': Case().layer(SyncSN, sync_group=1),
        'SN': Case().layer(SN2d),
    }


def run_groups(rank: int) -> dict[str, Result]:
    """Layers over the pairs 01 and 23, told in all ways there are."""
    pairs, _ = dist.new_subgroups_by_enumeration([[0, 1], [2, 3]])
    groups.machine_name = lambda: rank // 2
    case, (x, dy) = Case(), Case().shards(4)[rank]
    given = case.layer(SyncSN, process_group=pairs)
    named = case.layer(SyncSN, sync_group=2)
    machine = case.layer(SyncSN, sync_group='machine')
    copy.deepcopy(machine)(x)  # finds out about machines, a collective
    later = case.layer(SyncSN)
    later.process_group = pairs
    layers = {
        'process_group': given,
        'sync_group': named,
        'machine': machine,
        'copied': copy.deepcopy(given),
        'pickled': pickle.loads(pickle.dumps(named)),
        'set later': later,
    }
    return {
        f'pairs: {name}': run_case(layer, x, dy)
        for name, layer in layers.items()
    }


@functools.cache
def results(world: int) -> list[dict[str, Result]]:
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


@on_worlds(CASES)
def test_equals_sn_on_the_whole_batch(world, name):
    case = CASES[name]
    got = joined([r[name].values for r in results(world)], whole=True)
    plain = case.layer(SN2d)
    shards = case.shards(world)
    want = run(plain, *(torch.cat(t) for t in zip(*shards)))
    assert_close({'y': got.pop('y')}, {'y': want.pop('y')}, 1e-5)
    assert_close(got, want, 1e-4)
    for part in results(world):
        assert_close(part[name].buffers, buffers(plain), 1e-5)


@on_worlds(MIXED)
def test_shards_of_other_sizes_count_by_position(world, name):
    case = MIXED[name]
    got = joined([r[name].values for r in results(world)], whole=False)
    want, mean, var = oracle(case, case.shards(world))
    # at a mean of 1e4, x itself has three digits of its fluctuation
    assert_close(got, want, 1e-2 if case.mean > 1 else FLOAT32)
    before = buffers(case.layer(SN2d))
    step = case.momentum or 1.0  # the first of a cumulative average
    for part in results(world):
        after = part[name].buffers
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
        values, after = part['all empty'][:2]
        assert values['y'].shape == values['x'].shape == (0, 8, *EXTENT)
        assert not any(values[name].any() for name in values)
        assert all(torch.equal(after[key], before[key]) for key in before)


@WORLDS
def test_processes_agree_bit_for_bit(world):
    first, *others = results(world)
    for name in cases_on(world):
        want = first[name].buffers
        for other in others:
            got = other[name].buffers
            assert all(torch.equal(got[k], want[k]) for k in want), name


@WORLDS
def test_one_collective_forward_one_backward_none_in_eval(world):
    for part in results(world):
        for name in cases_on(world):
            assert part[name].training == [
                'c10d::allgather_',
                'c10d::allreduce_',
            ], name
            assert part[name].evaluation == [], name


@WORLDS
@pytest.mark.parametrize('name', silent_layers())
def test_no_collective_where_nothing_is_shared(world, name):
    for rank, part in enumerate(results(world)):
        assert part[name].training == part[name].evaluation == []
        alone = run_case(silent_layers()[name], *Case().shards(world)[rank])
        assert_close(part[name].values, alone.values, 1e-6)
        assert_close(part[name].buffers, alone.buffers, 1e-6)


@pytest.mark.parametrize(
    'name',
    [
        'process_group',
        'sync_group',
        'machine',
        'copied',
        'pickled',
        'set later',
    ],
)
def test_groups_keep_to_themselves(name):
    parts = [r[f'pairs: {name}'] for r in results(4)]
    case, shards = Case(), Case().shards(4)
    for pair in (slice(0, 2), slice(2, 4)):
        got = joined([part.values for part in parts[pair]], whole=True)
        plain = case.layer(SN2d)
        want = run(plain, *(torch.cat(t) for t in zip(*shards[pair])))
        assert_close(got, want, 1e-4)
        for part in parts[pair]:
            assert_close(part.buffers, buffers(plain), 1e-5)
            assert len(part.training) == 2


def test_repr_names_the_group():
    assert "sync_group='machine'" in repr(SyncSN(4, sync_group='machine'))
    assert 'group' not in repr(SyncSN(4))


def test_built_from_a_config():
    cfg = dict(type='SyncSN', sync_group=2, requires_grad=True)
    name, layer = build_norm_layer(cfg, 4, postfix=1)
    assert name == 'sn1' and layer.sync_group == 2
    with pytest.raises(ValueError, match='unknown sync_group'):
        build_norm_layer(dict(cfg, sync_group='node'), 4)


def test_the_last_group_set_counts():
    layer = SyncSN(4, sync_group=2)
    layer.process_group = object()
    assert layer.sync_group is None
    layer.sync_group = 'machine'
    assert layer.process_group is None
