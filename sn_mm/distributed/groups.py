# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Process groups that a config can name.

A config cannot hold a torch.distributed group, which is an object of the
running job, so it names one ('machine', or a number of processes) and the
group is made when it is first needed. All layers share it.

Every group here is the layers' own, also the one of all processes: a
gradient bucket of DistributedDataParallel may be reduced earlier on one
process than on another (``find_unused_parameters``), and collectives of one
group must come in the same order everywhere.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Union
from weakref import WeakKeyDictionary

import torch.distributed as dist

MACHINE = 'machine'
Spec = Union[int, str, None]
Partition = tuple[tuple[int, ...], ...]


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Processes in the group; 1 where no process group is initialized."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


class SyncGroup:
    """The processes that a layer synchronizes with.

    Copies of a layer share its group. A pickled one remembers ``spec``, but
    no process group: that cannot leave its process.

    Args:
        process_group: a group that this process belongs to.
        spec: a group by name, see :func:`named_group`; for None and no
            ``process_group``, all processes.

    Raises:
        TypeError, ValueError: if ``spec`` names nothing, or if both
            arguments are given.
    """

    def __init__(
        self,
        process_group: dist.ProcessGroup | None = None,
        spec: Spec = None,
    ) -> None:
        _check_spec(spec)
        if process_group is not None and spec is not None:
            raise ValueError(
                f'got both process_group and sync_group={spec!r}; give one '
                'of them'
            )
        self.process_group = process_group
        self.spec = spec

    def resolve(self) -> dist.ProcessGroup | None:
        """The group; None where this process has nobody to wait for.

        The first call for a ``spec`` is collective: all processes of the
        job must come.

        Raises:
            ValueError: if this process is not in ``process_group``, or
                ``spec`` does not fit the number of processes.
        """
        if world_size() < 2:
            return None
        group = self.process_group
        if group is None:
            group = named_group(self.spec)
        size = world_size(group)
        if size < 1:  # what torch says of a group that one is not in
            raise ValueError(
                f'process {dist.get_rank()} is not in its process_group; '
                'pass each process the group that it belongs to (the first '
                'value that torch.distributed.new_subgroups() returns)'
            )
        return group if size > 1 else None

    def __deepcopy__(self, memo: dict) -> SyncGroup:
        return self

    def __reduce__(self) -> tuple:
        if self.process_group is not None:
            warnings.warn(
                'a process_group cannot be pickled: the unpickled layer will '
                'synchronize over all processes; sync_group is kept',
                stacklevel=2,
            )
        return SyncGroup, (None, self.spec)


_groups: WeakKeyDictionary = WeakKeyDictionary()  # by default group
_specs: WeakKeyDictionary = WeakKeyDictionary()


def named_group(spec: Spec = None) -> dist.ProcessGroup:
    """This process's group, made once for each default group.

    Args:
        spec: None for all processes, 'machine' for those of one machine, n
            for groups of n consecutive ranks.

    Raises:
        ValueError: if n does not divide the number of processes.
    """
    known = _specs.setdefault(dist.group.WORLD, {})
    if spec not in known:
        known[spec] = _make(_partition(spec))
    return known[spec]


def _make(partition: Partition) -> dist.ProcessGroup:
    """This process's group of a partition of all ranks."""
    made = _groups.setdefault(dist.group.WORLD, {})
    if partition not in made:
        made[partition], _ = dist.new_subgroups_by_enumeration(
            [list(ranks) for ranks in partition], timeout=_timeout()
        )
    return made[partition]


def _timeout() -> timedelta | None:
    """That of the default group; None, torch's own, where it hides it.

    A job that asks for another one (``env_cfg.dist_cfg.timeout``) asks for
    it everywhere, and torch takes its own for every new group.
    """
    world = dist.group.WORLD
    for device in getattr(world, '_device_types', ()):
        try:
            return world._get_backend(device).options._timeout
        except (AttributeError, RuntimeError):
            continue
    return None


def _partition(spec: Spec) -> Partition:
    size = world_size()
    if spec is None:
        return (tuple(range(size)),)
    if spec == MACHINE:
        machines = [None] * size
        dist.all_gather_object(machines, machine_name())
        return ranks_by_machine(machines)
    if size % spec:
        divisors = [n for n in range(1, size + 1) if size % n == 0]
        raise ValueError(
            f'sync_group={spec} does not divide the {size} processes of this '
            f'job; choose one of {divisors}, {MACHINE!r} or None'
        )
    return tuple(tuple(range(i, i + spec)) for i in range(0, size, spec))


def ranks_by_machine(machines: Sequence[object]) -> Partition:
    """Ranks that share a machine, in the order of their first ranks.

    Args:
        machines: each rank's machine; they may hold different numbers of
            processes, in any order.
    """
    found: dict = {}
    for rank, machine in enumerate(machines):
        found.setdefault(machine, []).append(rank)
    return tuple(map(tuple, found.values()))


def machine_name() -> tuple[str, str | None]:
    """What processes of one machine have in common.

    The host's name, and torchrun's number of the node, which tells nodes
    apart whose host names are all the same.
    """
    return socket.gethostname(), os.environ.get('GROUP_RANK')


def _check_spec(spec: Spec) -> None:
    if spec is None or spec == MACHINE:
        return
    fix = f'use None (all processes), {MACHINE!r} or a number of processes'
    if isinstance(spec, bool) or not isinstance(spec, (int, str)):
        raise TypeError(
            f'sync_group must be an int or a str, got {spec!r}; {fix}'
        )
    if isinstance(spec, str) or spec < 1:
        raise ValueError(f'unknown sync_group={spec!r}; {fix}')
