# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""When processes average their buffers; runs: integration/toolboxes."""

from __future__ import annotations

import types

import pytest
import torch
from mmengine.hooks import CheckpointHook, SyncBuffersHook
from mmengine.runner import IterBasedTrainLoop

from sn_mm.patches import buffers_before_saving as patch


@pytest.fixture
def averaged(monkeypatch):
    """Buffers that were averaged, and how."""
    calls = []
    monkeypatch.setattr(
        patch,
        'all_reduce_params',
        lambda buffers, op: calls.append((list(buffers), op)),
    )
    return calls


def runner(iteration, loop=IterBasedTrainLoop, max_iters=100, by_epoch=False):
    model = torch.nn.BatchNorm2d(2)
    train_loop = object.__new__(loop)
    train_loop.__dict__.update(val_interval=10)
    return types.SimpleNamespace(
        iter=iteration - 1,  # of the step that is done
        max_iters=max_iters,
        model=model,
        train_loop=train_loop,
        hooks=[CheckpointHook(interval=7, by_epoch=by_epoch)],
    )


def hook(distributed=True):
    made = SyncBuffersHook()
    made.distributed = distributed
    return made


@pytest.mark.parametrize(
    'iteration, times', [(7, 1), (10, 1), (70, 1), (8, 0), (100, 1)]
)
def test_before_checkpoints_and_validations(averaged, iteration, times):
    state = runner(iteration)
    hook().after_train_iter(state, 0)
    assert averaged == [(list(state.model.buffers()), 'mean')] * times


def test_not_where_nothing_is_to_be_averaged(averaged):
    class OtherLoop:
        pass

    hook(distributed=False).after_train_iter(runner(7), 0)
    hook().after_train_iter(runner(7, OtherLoop), 0)
    hook().after_train_iter(runner(7, by_epoch=True), 0)
    assert averaged == []


def test_patched_once():
    before = SyncBuffersHook.after_train_iter
    patch.sync_before_saving()
    assert SyncBuffersHook.after_train_iter is before
    assert before is patch._after_train_iter
