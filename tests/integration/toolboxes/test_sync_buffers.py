# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SyncBuffersHook on two processes: what is validated is what is saved."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from sn_mm import SN, SSN
from tests.builders import Toy, loader, runner_options
from tests.distributed import run_processes

NORMS = dict(SN=SN, SSN=SSN, BN=nn.BatchNorm2d)
LOOPS = dict(
    epochs=dict(by_epoch=True, max_epochs=2),
    iterations=dict(by_epoch=False, max_iters=4, val_interval=2),
)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(none=0)


class Validated(Hook):
    """Keeps the model as it is when a validation begins."""

    priority = 'LOWEST'

    def __init__(self):
        self.states = {}

    def before_val_epoch(self, runner):
        state = copy.deepcopy(runner.model.module.state_dict())
        self.states[runner.iter] = state


def train(norm: type, train_cfg: dict, folder: str) -> tuple[dict, dict]:
    """States by iteration: validated by this process, and saved."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(dist.get_rank())
    data = [
        # the processes' pictures are not alike
        dict(x=torch.randn(3, 8, 8, generator=generator), label=i % 2)
        for i in range(8)
    ]
    seen = Validated()
    save = dict(
        type='CheckpointHook',
        interval=train_cfg.get('val_interval', 1),
        by_epoch=train_cfg['by_epoch'],
    )
    runner = Runner(
        Toy(norm(4)),
        folder,
        train_dataloader=loader(data),
        val_dataloader=loader(data),
        train_cfg=dict(train_cfg),
        val_cfg=dict(),
        val_evaluator=Evaluator(Nothing()),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=save),
        custom_hooks=[dict(type='SyncBuffersHook'), seen],
        launcher='pytorch',
        cfg=dict(
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None
            )
        ),
        **runner_options(),
    )
    runner.train()
    dist.barrier()
    saved = {}
    for path in Path(folder).glob('*.pth'):
        file = torch.load(path, weights_only=False)
        saved[file['meta']['iter']] = file['state_dict']
    dist.barrier()
    return seen.states, saved


def everything(rank: int) -> dict:
    results = {}
    for name, norm in NORMS.items():
        for loop, train_cfg in LOOPS.items():
            place = [tempfile.mkdtemp()]
            dist.broadcast_object_list(place)
            results[name, loop] = train(norm, train_cfg, place[0])
    return results


@pytest.fixture(scope='module')
def processes():
    return run_processes(everything)


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('norm', NORMS)
def test_the_checkpoint_is_what_was_validated(processes, norm, loop):
    (first, saved), (second, _) = (p[norm, loop] for p in processes)
    assert first.keys() == second.keys() == saved.keys() and len(saved) == 2
    for iteration, state in saved.items():
        for name, value in state.items():
            assert torch.equal(first[iteration][name], value), name
            assert torch.equal(second[iteration][name], value), name
