# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The radius of sparse SN in real runs, and the warning where it stays."""

import math
import warnings

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop
from torch import nn

import sn_mm
from sn_mm.hooks import RadiusHook
from tests.builders import Toy, toy_runner

HOOK = dict(type='RadiusHook')


class Record(Hook):
    """Notes the radius that each forward sees."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append([float(m.radius) for m in sparse(runner.model)])


class UsersOwn(Hook):
    """Moves the radius its own way, from some epoch on."""

    def __init__(self, first=0):
        self.first = first

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.epoch >= self.first:
            for m in sparse(runner.model):
                m.radius.add_(0.1)


def sparse(model):
    return [m for m in model.modules() if isinstance(m, sn_mm.SSN)]


def toy():
    torch.manual_seed(0)
    return sn_mm.convert_norm(Toy(), 'SSN')


def run(folder, *hooks, epochs=2, model=None, resume=None, **options):
    """2 iterations an epoch; what was warned of, and the Runner."""
    runner = toy_runner(
        folder, model or toy(), epochs, custom_hooks=list(hooks), **options
    )
    if resume is not None:
        runner.resume(str(resume))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        runner.train()
    texts = [str(w.message) for w in caught]
    return runner, [t for t in texts if 'radius' in t]


# -- the schedule ----------------------------------------------------------
def test_linear_from_0_to_1_before_each_forward(tmp_path):
    record = Record()
    runner, said = run(tmp_path, HOOK, record, epochs=3)
    assert record.seen == [pytest.approx([i / 6]) for i in range(6)]
    assert [float(m.radius) for m in sparse(runner.model)] == [1]
    assert said == []
    # the checkpoint of the last epoch has the last radius, and choices
    state = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    (radius,) = (v for k, v in state['state_dict'].items() if 'radius' in k)
    assert float(radius) == 1
    (layer,) = sparse(runner.model)
    assert layer.choices() is not None


def test_begin_and_end(tmp_path):
    record = Record()
    run(tmp_path, dict(HOOK, begin=2, end=4), record, epochs=3)
    assert [r for (r,) in record.seen] == [0, 0, 0, 0.5, 1, 1]


def test_resumed_runs_go_on(tmp_path):
    run(tmp_path / 'a', HOOK, epochs=3)
    record = Record()
    half = tmp_path / 'a/epoch_1.pth'
    run(tmp_path / 'b', HOOK, record, epochs=3, resume=half)
    assert record.seen == [pytest.approx([i / 6]) for i in range(2, 6)]


@pytest.mark.parametrize(
    'options',
    [dict(begin=-1), dict(begin=3, end=3), dict(max_norm=0)],
)
def test_settings_that_cannot_be(options):
    with pytest.raises(ValueError, match='got'):
        RadiusHook(**options)


def test_a_model_without_ssn(tmp_path):
    with pytest.raises(ValueError, match='needs a model with SSN layers'):
        run(tmp_path, HOOK, model=Toy())


# -- the optimizer -------------------------------------------------------
@pytest.mark.parametrize('max_norm', [None, 1.0, 1e-3])
def test_gradients_of_the_ratios_are_clipped_together(tmp_path, max_norm):
    """One norm over all ratios; other parameters' gradients stay."""
    norms, others = [], []

    class Scale(Hook):
        """Large gradients, and what the optimizer is given."""

        def before_train(self, runner):
            for name, p in runner.model.named_parameters():
                p.register_hook(lambda g, n=name: g * 1e4)
            step = runner.optim_wrapper.optimizer.step

            def spied(*args, **kwargs):
                result = step(*args, **kwargs)
                grads = dict(runner.model.named_parameters())
                own = [
                    p.grad
                    for n, p in grads.items()
                    if 'mean_w' in n or 'var_w' in n
                ]
                norms.append(float(torch.cat(own).norm()))
                others.append(float(grads['norm.weight'].grad.norm()))
                return result

            runner.optim_wrapper.optimizer.step = spied

    run(tmp_path, dict(HOOK, max_norm=max_norm), Scale(), epochs=1)
    assert len(norms) == 2 and min(others) > 1
    if max_norm is None:
        assert norms[0] > 1
    else:
        assert norms[0] == pytest.approx(max_norm, rel=1e-3)


@pytest.mark.skipif(
    not hasattr(torch.amp, 'GradScaler'), reason='no scaler for CPUs'
)
def test_gradients_that_are_scaled_are_clipped_as_they_will_be():
    """Fused optimizers unscale in their step, after hooks on it."""
    weights = {}
    for fused in (False, True):
        torch.manual_seed(0)
        model = toy()
        (layer,) = sparse(model)
        before = layer.mean_weight.detach().clone()
        optimizer = torch.optim.SGD(model.parameters(), 1.0, fused=fused)
        scaler = torch.amp.GradScaler('cpu', init_scale=2.0**12)
        hook = RadiusHook(max_norm=0.1)
        hook._layers = [layer]
        optimizer.register_step_pre_hook(hook._clip)
        loss = (layer.mean_weight * torch.tensor([3.0, 4.0, 0.0])).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        weights[fused] = layer.mean_weight.detach() - before
    want = torch.tensor([-0.06, -0.08, 0.0])
    assert torch.allclose(weights[False], want, atol=1e-4)
    assert torch.allclose(weights[True], want, atol=1e-4)


def test_the_optimizer_is_left_as_it_was(tmp_path):
    runner, _ = run(tmp_path, HOOK)
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_several_optimizers():
    from sn_mm.hooks.radius_hook import _optimizers

    one, two = (
        torch.optim.SGD([nn.Parameter(torch.ones(1))], 1) for _ in '12'
    )
    wrappers = OptimWrapperDict(a=OptimWrapper(one), b=OptimWrapper(two))
    assert list(_optimizers(wrappers)) == [one, two]
    assert list(_optimizers(one)) == [one]


# -- where nothing moves it ----------------------------------------------
@pytest.mark.parametrize(
    'options, last',
    [(dict(begin=9), '0 '), (dict(end=12), '0.5 '), (dict(begin=2), None)],
)
def test_a_schedule_that_ends_after_training(tmp_path, options, last):
    """Of 6 iterations, 2 an epoch; told once, and not where it only waits."""
    _, said = run(tmp_path, dict(HOOK, **options), epochs=3)
    assert len(said) == (last is not None)
    if last is not None:
        assert f'grow to {last}in the 6 iterations' in said[0]
        assert 'only from 0.816 on' in said[0]


def test_no_hook_at_all_is_told_of_at_the_start(tmp_path):
    class Stop(Exception):
        pass

    class Stops(Hook):
        __module__ = 'mmdet.engine'  # as if it were a toolbox's

        def before_train_epoch(self, runner):
            raise Stop

    with pytest.warns(UserWarning, match='RadiusHook') as caught:
        with pytest.raises(Stop):
            toy_runner(tmp_path, toy(), custom_hooks=[Stops()]).train()
    (text,) = (str(w.message) for w in caught if 'radius' in str(w.message))
    assert 'the radius of 1 SSN layers is 0' in text


def test_said_once_in_a_long_training(tmp_path):
    _, said = run(tmp_path, epochs=3)
    assert len(said) == 1


@pytest.mark.parametrize(('first', 'count'), [(0, 0), (1, 1), (9, 1)])
def test_a_users_own_hook_counts_by_what_it_does(tmp_path, first, count):
    _, said = run(tmp_path, UsersOwn(first), epochs=3)
    assert len(said) == count
    assert all('first epoch' in text for text in said)


@pytest.mark.parametrize(
    ('iterations', 'what'),
    [(1, 'in this training'), (2, 'first epoch'), (5, 'first epoch')],
)
def test_a_training_without_epochs(tmp_path, iterations, what):
    """An epoch has 2 iterations: it is told of after so many."""
    runner = toy_runner(tmp_path, toy(), custom_hooks=[UsersOwn(9)])
    loop = IterBasedTrainLoop(runner, runner._train_dataloader, iterations)
    runner._train_loop = loop
    with pytest.warns(UserWarning, match='radius') as caught:
        runner.train()
    (text,) = (str(w.message) for w in caught if 'radius' in str(w.message))
    assert what in text


@pytest.mark.parametrize('kind', ['SN', 'hard', 'grown', 'alone'])
def test_layers_that_need_no_radius(tmp_path, kind):
    model = toy() if kind != 'SN' else Toy()
    for layer in sparse(model):
        if kind == 'hard':
            sn_mm.harden(model)
        elif kind == 'grown':
            layer.radius.fill_(1)
        elif kind == 'alone':
            model = sn_mm.convert_norm(
                Toy(), dict(type='SSN', statistics=('ln',))
            )
    _, said = run(tmp_path, model=model)
    assert said == []


def test_radius_of_the_choice():
    """Where it grows past 0.816, three ratios are one."""
    layer = sn_mm.SSN(4)
    layer.radius.fill_(math.sqrt(2 / 3) + 1e-3)
    with torch.no_grad():
        layer.mean_weight.copy_(torch.tensor([1.0, 1.1, 0.9]))
    layer(torch.randn(2, 4, 3, 3))
    assert layer.ratios()['mean'].tolist() == [0, 1, 0]
