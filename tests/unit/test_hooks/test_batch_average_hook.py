# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""BatchAverageHook in epoch- and iteration-based runs."""

import copy
import tempfile
import uuid

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import sn_mm
from sn_mm import SN, SyncSN
from sn_mm.cli import register_toolbox
from sn_mm.hooks import BatchAverageHook
from tests.builders import (
    Toy,
    loader,
    runner_options,
    toy_runner,
)
from tests.distributed import run_processes
from tests.paths import CONFIGS

RUNNING = ('norm.running_mean', 'norm.running_var')
HOOK = dict(type='BatchAverageHook')
DEMO = CONFIGS / 'demo'


def data():
    gen = torch.Generator().manual_seed(0)
    return [
        dict(x=torch.randn(3, 8, 8, generator=gen) + i, label=i % 2)
        for i in range(6)
    ]


def runner(folder, hooks=(), iters=None, epochs=2, val=1, model=None, **kw):
    """3 iterations an epoch, evaluated and saved all ``val``."""
    if model is None:
        torch.manual_seed(0)
        model = Toy()
    by_epoch = iters is None
    limits = dict(max_epochs=epochs) if by_epoch else dict(max_iters=iters)
    sampler = 'DefaultSampler' if by_epoch else 'InfiniteSampler'
    train = loader(data())
    train['sampler'] = dict(type=sampler, shuffle=True)
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9)
    return Runner(
        model,
        str(folder),
        train_dataloader=train,
        train_cfg=dict(by_epoch=by_epoch, val_interval=val, **limits),
        val_dataloader=loader(data()),
        val_cfg=dict(),
        val_evaluator=[],
        optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', by_epoch=by_epoch, interval=val
            )
        ),
        randomness=dict(seed=0),
        custom_hooks=list(hooks),
        **{**runner_options(), **kw},
    )


def statistics(state):
    return [state[name].clone() for name in RUNNING]


def averaged(state):
    """Statistics of a model with these weights over all of the data."""
    model = Toy()
    model.load_state_dict(state)
    order = data()
    batches = [
        dict(
            x=[o['x'] for o in order[i : i + 2]],
            label=[o['label'] for o in order[i : i + 2]],
        )
        for i in range(0, 6, 2)
    ]
    sn_mm.update_batch_average(model, batches)
    return statistics(model.state_dict())


def means_match(got, want):
    """Means are the same however the images are put into batches of 2."""
    torch.testing.assert_close(got[0], want[0], rtol=1e-4, atol=1e-5)


class Spy(Hook):
    """The statistics and weights that an evaluation sees."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def before_val_epoch(self, runner):
        self.seen.append(copy.deepcopy(runner.model.state_dict()))


# -- when ----------------------------------------------------------------
@pytest.mark.parametrize('kind', ['epochs', 'iterations'])
def test_evaluation_and_checkpoint_see_averages(tmp_path, kind):
    limits = dict(epochs=2) if kind == 'epochs' else dict(iters=4, val=2)
    spy = Spy()
    run = runner(tmp_path, [HOOK, spy], **limits)
    run.train()
    names = (
        ['epoch_1.pth', 'epoch_2.pth']
        if kind == 'epochs'
        else ['iter_2.pth', 'iter_4.pth']
    )
    assert len(spy.seen) == 2
    for name, seen in zip(names, spy.seen):
        saved = torch.load(tmp_path / name, weights_only=False)['state_dict']
        for key, value in seen.items():
            assert torch.equal(saved[key], value), key
        means_match(statistics(seen), averaged(seen))


@pytest.mark.parametrize(
    ('limits', 'hook', 'times'),
    [
        (dict(epochs=4, val=2), {}, [2, 4]),
        (dict(epochs=3, val=9), {}, [3]),
        (dict(epochs=3, val=9), dict(interval=2), [2, 3]),
        (dict(epochs=2, val=9), dict(interval=4, by_epoch=False), [4, 6]),
        (dict(iters=7, val=9), dict(interval=3), [3, 6, 7]),
        (dict(iters=5, val=2), {}, [2, 4, 5]),
    ],
)
def test_interval(tmp_path, monkeypatch, limits, hook, times):
    called = []

    def update(self, run):
        called.append(run.epoch + 1 if self.by_epoch else run.iter + 1)

    monkeypatch.setattr(BatchAverageHook, '_update', update)
    run = runner(tmp_path, [dict(HOOK, **hook)], **limits)
    run.train()
    assert called == times


@pytest.mark.parametrize('limits', [dict(epochs=1), dict(iters=3, val=3)])
def test_samples_are_rounded_up_to_batches(tmp_path, monkeypatch, limits):
    done = []
    update = sn_mm.hooks.batch_average_hook.update_batch_average

    def spy(*args, **kwargs):
        done.append(update(*args, **kwargs).batches)
        return update(*args, **kwargs)

    monkeypatch.setattr(
        sn_mm.hooks.batch_average_hook, 'update_batch_average', spy
    )
    for samples in (1, 3, 100):
        hook = dict(HOOK, num_samples=samples)
        runner(tmp_path, [hook], **limits).train()
    assert done == [1, 2, 3]  # the data set has three batches


# -- nothing but statistics ----------------------------------------------
@pytest.mark.parametrize('limits', [dict(epochs=3), dict(iters=8, val=2)])
def test_training_is_the_same_with_and_without(tmp_path, limits):
    ends = []
    for name, hooks in (('without', []), ('with', [HOOK])):
        run = runner(tmp_path / name, hooks, **limits)
        run.train()
        ends.append(
            (
                run.model.state_dict(),
                run.optim_wrapper.state_dict(),
                torch.get_rng_state(),
            )
        )
    (state, optim, draws), (state2, optim2, draws2) = ends
    for key in state:
        assert torch.equal(state[key], state2[key]) == (key not in RUNNING)
    assert torch.equal(draws, draws2)
    for slot, values in optim['state'].items():
        buffer = optim2['state'][slot]['momentum_buffer']
        assert torch.equal(values['momentum_buffer'], buffer)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_weights_get_their_own_statistics(tmp_path, update_buffers):
    ema = dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers)
    spy = Spy()
    run = runner(tmp_path, [HOOK, ema, spy], epochs=2)
    run.train()
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    seen, state = spy.seen[-1], saved['state_dict']
    assert not torch.equal(
        state['conv.weight'], saved['ema_state_dict']['module.conv.weight']
    )
    for key in seen:
        if 'num_batches' not in key:
            assert torch.equal(state[key], seen[key]), key
    means_match(statistics(state), averaged(state))
    raw = {
        key[7:]: value
        for key, value in saved['ema_state_dict'].items()
        if key.startswith('module.')
    }
    assert not torch.allclose(statistics(state)[0], averaged(raw)[0])


CONFIGS = {
    'faster-rcnn_r18_fpn_sn-all_demo.py': {
        'train_cfg.max_epochs': 1,
        'train_cfg.val_interval': 1,
    },
    'pspnet_r18-d8_sn-all_demo-160x192.py': {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
    },
}


@pytest.mark.parametrize('name', CONFIGS)
def test_detector_and_segmentor(name, tiny_demo_data, tmp_path, monkeypatch):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
    states, logs = [], []
    for hooks in ([], [HOOK]):
        cfg = Config.fromfile(DEMO / name)
        cfg.merge_from_dict(dict(CONFIGS[name], custom_hooks=hooks))
        cfg.work_dir = str(tmp_path / str(len(hooks)))
        cfg.launcher = 'none'
        cfg.experiment_name = uuid.uuid4().hex
        with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
            run = Runner.from_cfg(cfg)
            run.train()
        (path,) = (tmp_path / str(len(hooks))).glob('*.pth')
        states.append(torch.load(path, weights_only=False)['state_dict'])
        path = tmp_path / str(len(hooks))
        logs.append(''.join(p.read_text() for p in path.rglob('*.log')))
    for key, value in states[0].items():
        same = not key.endswith(('running_mean', 'running_var'))
        assert torch.equal(states[1][key], value) == same, key
    layers = sum(key.endswith('running_mean') for key in states[0])
    line = f'statistics of {layers} layers from 2 batches'
    assert line not in logs[0] and line in logs[1]


# -- what cannot work ----------------------------------------------------
def test_arguments():
    with pytest.raises(ValueError, match='num_samples must be at least 1'):
        BatchAverageHook(num_samples=0)
    with pytest.raises(TypeError, match='interval must be an int'):
        BatchAverageHook(interval=0.5)


def test_is_said_before_training(tmp_path):
    hook = dict(HOOK, by_epoch=True)
    with pytest.raises(ValueError, match='no epochs'):
        runner(tmp_path, [hook], iters=2).train()
    run = runner(tmp_path, [HOOK], model=Toy(torch.nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match='has no SN layer'):
        run.train()
    assert not list(tmp_path.glob('*.pth'))


def test_a_run_that_diverged_goes_on(tmp_path):
    model = Toy()
    with torch.no_grad():
        model.conv.weight.fill_(float('nan'))
    run = runner(tmp_path, [HOOK], model=model)
    run.train()
    assert (tmp_path / 'epoch_2.pth').is_file()
    log = ''.join(p.read_text() for p in tmp_path.rglob('*.log'))
    assert 'not finite' in log


# -- several processes ---------------------------------------------------
def _trains(rank):
    results = {}
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
    for name, norm in dict(SN=SN, SyncSN=SyncSN).items():
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            run = toy_runner(
                folder,
                Toy(norm(4)),
                launcher='pytorch',
                custom_hooks=[HOOK],
                cfg=dict(model_wrapper_cfg=wrapper),
            )
            run.train()
            dist.barrier()
        results[name] = copy.deepcopy(run.model.module.state_dict())
    return results


def test_processes_agree():
    ranks = run_processes(_trains)
    for name in ('SN', 'SyncSN'):
        a, b = (rank[name] for rank in ranks)
        for key in RUNNING:
            assert torch.equal(a[key], b[key]), (name, key)
        # all four images, one to a process and step
        gen = torch.Generator().manual_seed(0)
        x = torch.stack(
            [torch.randn(3, 8, 8, generator=gen) for _ in range(4)]
        )
        model = Toy()
        model.load_state_dict(a)
        with torch.no_grad():
            mean = model.conv(x).mean((0, 2, 3))
        torch.testing.assert_close(a[RUNNING[0]], mean, rtol=1e-4, atol=1e-5)
