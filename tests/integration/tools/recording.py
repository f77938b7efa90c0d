# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A hook that a test's config loads into every process of a run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

DIE = 'SN_MM_TEST_DIE'  # 'RANK:ITERATION'


@HOOKS.register_module()
class Recorder(Hook):
    """Writes each process's losses down; kills one process when told to."""

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if os.environ.get(DIE) == f'{runner.rank}:{runner.iter}':
            os.kill(os.getpid(), signal.SIGKILL)

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        with loss_file(runner.work_dir, runner.rank).open('a') as file:
            print(runner.iter, float(outputs['loss'].detach()), file=file)


def loss_file(work_dir: str, rank: int) -> Path:
    return Path(work_dir) / f'losses_of_{rank}.txt'


def losses(work_dir: str, rank: int) -> dict[int, float]:
    """Loss by iteration."""
    lines = loss_file(work_dir, rank).read_text().splitlines()
    return {int(n): float(loss) for n, loss in map(str.split, lines)}
