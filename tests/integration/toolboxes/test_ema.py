# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Averaged models: mmengine's ExponentialMovingAverage and EMAHook."""

import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage, StochasticWeightAverage

from sn_mm import SN, SyncSN
from tests.builders import Toy, toy_runner

RATIOS = ('norm.mean_weight', 'norm.var_weight')
RUNNING = ('norm.running_mean', 'norm.running_var')
MOMENTUM = 0.25


def train(model, ema, steps=3):
    """Update after every step; the states of the model, one per update."""
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    gen = torch.Generator().manual_seed(0)
    states = []
    for _ in range(steps):
        images = list(torch.randn(2, 3, 8, 8, generator=gen))
        optimizer.zero_grad()
        model(images, [0, 1], mode='loss')['loss'].backward()
        optimizer.step()
        ema.update_parameters(model)
        states.append(copy.deepcopy(model.state_dict()))
    return states


def averaged(values):
    mean = values[0]  # the first update copies
    for value in values[1:]:
        mean = mean + MOMENTUM * (value - mean)
    return mean


@pytest.mark.parametrize('cls', [SN, SyncSN])
@pytest.mark.parametrize('update_buffers', [False, True])
def test_ratios_are_averaged_and_buffers_arrive(cls, update_buffers):
    torch.manual_seed(0)
    model = Toy(cls(4)).train()
    ema = ExponentialMovingAverage(
        model, momentum=MOMENTUM, update_buffers=update_buffers
    )
    states = train(model, ema)
    got = ema.module.state_dict()
    for name in RATIOS + ('norm.weight', 'norm.bias'):
        values = [s[name] for s in states]
        assert not torch.equal(values[0], values[-1]), name
        torch.testing.assert_close(got[name], averaged(values))
        assert not torch.equal(got[name], values[-1]), name
    for name in RUNNING:
        values = [s[name] for s in states]
        want = averaged(values) if update_buffers else values[-1]
        assert not torch.equal(values[0], values[-1]), name
        torch.testing.assert_close(got[name], want)


def test_stochastic_weight_average_of_ratios():
    torch.manual_seed(0)
    model = Toy().train()
    swa = StochasticWeightAverage(model)
    states = train(model, swa)
    for name in RATIOS:
        want = torch.stack([s[name] for s in states]).mean(0)
        torch.testing.assert_close(swa.module.state_dict()[name], want)


@pytest.mark.parametrize(
    'norm',
    [SN(4), SyncSN(4), SN(4, momentum=None), SN(4, bn_eval=True)],
    ids=['SN', 'SyncSN', 'cumulative', 'bn_eval'],
)
def test_buffers_are_never_bound_anew(norm):
    """A model that averages buffers keeps references to them."""
    model = Toy(copy.deepcopy(norm)).train()
    before = {n: b.data_ptr() for n, b in model.named_buffers()}
    held = dict(model.named_buffers())
    assert set(RUNNING) <= set(before)
    ema = ExponentialMovingAverage(model, momentum=MOMENTUM)
    train(model, ema)
    model.eval()
    model([torch.randn(3, 8, 8)])
    model.train()
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    train(model, ema)
    model.norm.reset_running_stats()
    for name, buffer in model.named_buffers():
        assert buffer is held[name], name
        assert buffer.data_ptr() == before[name], name


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
