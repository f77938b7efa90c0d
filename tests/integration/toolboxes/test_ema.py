# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Averaged models: mmengine's ExponentialMovingAverage and EMAHook."""

import copy

import pytest
import torch

from tests.builders import toy_runner

RATIOS = ('norm.mean_weight', 'norm.var_weight')
RUNNING = ('norm.running_mean', 'norm.running_var')
MOMENTUM = 0.25


def averaged(values):
    mean = values[0]  # the first update copies
    for value in values[1:]:
        mean = mean + MOMENTUM * (value - mean)
    return mean


@pytest.mark.parametrize('update_buffers', [False, True])
def test_hook_saves_and_swaps(tmp_path, update_buffers):
    hook = dict(
        type='EMAHook', momentum=MOMENTUM, update_buffers=update_buffers
    )
    runner = toy_runner(tmp_path, custom_hooks=[hook])
    states = []
    ema_hook = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
    after = ema_hook.after_train_iter

    def spy(runner, *args, **kwargs):
        states.append(copy.deepcopy(runner.model.state_dict()))
        after(runner, *args, **kwargs)

    ema_hook.after_train_iter = spy
    runner.train()
    assert len(states) == 2
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    for name in RATIOS + RUNNING:
        values = [s[name] for s in states]
        want = averaged(values)
        if name in RUNNING and not update_buffers:
            want = values[-1]
        torch.testing.assert_close(saved['state_dict'][name], want)
        torch.testing.assert_close(
            saved['ema_state_dict']['module.' + name], values[-1]
        )
