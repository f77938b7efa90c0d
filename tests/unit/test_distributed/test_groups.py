# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Groups by name: what they span, that they are shared, and errors."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch.distributed as dist

from sn_mm.distributed import groups
from sn_mm.distributed.groups import SyncGroup, named_group, ranks_by_machine
from tests.distributed import run_processes

SPECS = (None, 'machine', 1, 2, 4)


def ranks(spec) -> list[int]:
    return dist.get_process_group_ranks(named_group(spec))


def error_of(sync_group: SyncGroup) -> str | None:
    try:
        sync_group.resolve()
    except ValueError as error:
        return str(error)


def make_groups(rank: int) -> dict:
    """What a process sees; ranks 0, 1 and 3 are on one machine."""
    groups.machine_name = lambda: 'other' if rank == 2 else 'one'
    made = []
    make = dist.new_subgroups_by_enumeration
    dist.new_subgroups_by_enumeration = lambda lists, **options: (
        made.append(lists) or make(lists, **options)
    )
    result = dict(ranks={spec: ranks(spec) for spec in SPECS})
    result['made'] = list(made)
    result['shared'] = all(
        SyncGroup(spec=spec).resolve() in (named_group(spec), None)
        for spec in SPECS
    )
    result['made again'] = len(made) > len(result['made'])
    result['own'] = named_group() is not dist.group.WORLD
    result['alone'] = SyncGroup(spec=1).resolve()
    result['misfit'] = error_of(SyncGroup(spec=3))
    pair = dist.new_group([0, 1])
    result['outside'] = error_of(SyncGroup(pair))
    dist.destroy_process_group(pair)
    return result


@pytest.fixture(scope='module')
def processes():
    return run_processes(make_groups, 4)


def test_ranks_of_groups(processes):
    everyone = [0, 1, 2, 3]
    for rank, seen in enumerate(processes):
        assert seen['ranks'] == {
            None: everyone,
            'machine': [2] if rank == 2 else [0, 1, 3],
            1: [rank],
            2: [0, 1] if rank < 2 else [2, 3],
            4: everyone,
        }


def test_groups_are_made_once_in_the_same_order(processes):
    for seen in processes:
        assert seen['made'] == [
            [[0, 1, 2, 3]],  # also the one of 4
            [[0, 1, 3], [2]],
            [[0], [1], [2], [3]],
            [[0, 1], [2, 3]],
        ]
        assert seen['shared'] and not seen['made again']


def test_the_group_of_all_is_not_the_default_one(processes):
    assert all(seen['own'] for seen in processes)


def test_nobody_to_wait_for(processes):
    assert all(seen['alone'] is None for seen in processes)
    assert SyncGroup(spec='machine').resolve() is None
    assert SyncGroup(spec=8).resolve() is None  # not distributed


def test_a_number_that_does_not_divide_names_the_ones_that_do(processes):
    for seen in processes:
        assert 'sync_group=3 does not divide the 4 process' in seen['misfit']
        assert '[1, 2, 4]' in seen['misfit']


def test_a_group_that_the_process_is_not_in(processes):
    assert [seen['outside'] is None for seen in processes] == [
        True,
        True,
        False,
        False,
    ]
    assert 'process 2 is not in its process_group' in processes[2]['outside']


def test_machines_of_any_size_in_any_order():
    assert ranks_by_machine('aabba') == ((0, 1, 4), (2, 3))
    assert ranks_by_machine('a') == ((0,),)


def test_nodes_of_one_host_name_are_told_apart(monkeypatch):
    names = set()
    for node in '01':
        monkeypatch.setenv('GROUP_RANK', node)
        names.add(groups.machine_name())
    assert len(names) == 2


@pytest.mark.parametrize(
    'spec, error',
    [
        ('host', ValueError),
        (0, ValueError),
        (-2, ValueError),
        (True, TypeError),
        (2.0, TypeError),
        ((0, 1), TypeError),
    ],
)
def test_unknown_groups(spec, error):
    with pytest.raises(error, match='sync_group.*machine'):
        SyncGroup(spec=spec)


def test_two_groups_are_one_too_many():
    with pytest.raises(ValueError, match='give one of them'):
        SyncGroup(object(), 'machine')


def test_copies_share_the_group():
    group = object()  # stands for one: not copied, not pickled
    given = SyncGroup(group)
    assert copy.deepcopy([given])[0].process_group is group
    with pytest.warns(UserWarning, match='cannot be pickled'):
        assert pickle.loads(pickle.dumps(given)).process_group is None
    named = SyncGroup(spec='machine')
    assert pickle.loads(pickle.dumps(named)).spec == 'machine'
