# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""mmengine's ``SyncBuffersHook``, in time for the checkpoint.

In loops that count iterations it (0.10.0 to 0.10.7 at least) averages the
processes' buffers when validation starts. The checkpoint of that iteration
was written before, with the first process's: a test of it differs from the
validation.
"""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_reduce_params
from mmengine.hooks import CheckpointHook, Hook, SyncBuffersHook
from mmengine.runner import IterBasedTrainLoop, Runner


def sync_before_saving() -> None:
    """Let ``SyncBuffersHook`` also come before checkpoints, once."""
    if 'after_train_iter' not in vars(SyncBuffersHook):
        SyncBuffersHook.after_train_iter = _after_train_iter


def _after_train_iter(
    self: SyncBuffersHook,
    runner: Runner,
    batch_idx: int,
    data_batch: Any = None,
    outputs: dict | None = None,
) -> None:
    """All-reduce buffers where this iteration is saved or validated."""
    loop = runner.train_loop
    if not self.distributed or not isinstance(loop, IterBasedTrainLoop):
        return
    if self.is_last_train_iter(runner) or any(
        self.every_n_train_iters(runner, interval)
        for interval in (loop.val_interval, *_intervals(runner.hooks))
    ):
        all_reduce_params(runner.model.buffers(), op='mean')


def _intervals(hooks: list[Hook]) -> list[int]:
    """Iterations from one checkpoint to the next."""
    return [
        hook.interval
        for hook in hooks
        if isinstance(hook, CheckpointHook) and not hook.by_epoch
    ]
