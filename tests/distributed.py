# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Several processes on one machine, over gloo."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any, Callable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_processes(
    function: Callable[[int], Any], world_size: int = 2, timeout: float = 600.0
) -> list[Any]:
    """``function(rank)`` in a process each, inside one gloo group.

    The processes are forked off one that has imported everything: starting
    them takes a moment, not seconds. They see its environment variables.

    Args:
        function: importable, no lambda; what it returns
            must be picklable.
        world_size: number of processes.
        timeout: seconds until all of them are killed.

    Returns:
        What the processes returned, in rank order.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a process failed.
        TimeoutError: they did not finish.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.set_forkserver_preload(['tests.preloaded'])
        context = mp.start_processes(
            _work,
            (function, world_size, folder),
            world_size,
            join=False,
            start_method='forkserver',
        )
        deadline = time.monotonic() + timeout
        try:
            while not context.join(timeout=1.0):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f'{function.__name__} on {world_size} processes did '
                        f'not finish in {timeout} s'
                    )
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
        return [
            torch.load(_result_file(folder, rank), weights_only=False)
            for rank in range(world_size)
        ]


def _work(
    rank: int, function: Callable[[int], Any], world_size: int, folder: str
) -> None:
    torch.set_num_threads(1)
    # for mmengine's Runner, which reads what a launcher would have set
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size)
    )
    # a file as the meeting point: no port to be free
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=world_size,
    )
    try:
        torch.save(function(rank), _result_file(folder, rank))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _result_file(folder: str, rank: int) -> str:
    return os.path.join(folder, f'{rank}.pth')
