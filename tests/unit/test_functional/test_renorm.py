# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch Renormalization: numbers from elsewhere, limits, schedule, states."""

import copy

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn
from torch.utils.checkpoint import checkpoint

from sn_mm import (
    convert_norm,
    find_norms,
    fold,
    load_pretrained,
    update_batch_average,
)
from sn_mm.layers import BRN, RowNorm, SyncBRN
from sn_mm.layers.renorm import PUBLISHED_SCHEDULE
from tests.builders import resnet
from tests.distributed import run_processes
from tests.family import fixture_of
from tests.utils import randomize, relative_error, run

BUFFERS = ('running_mean', 'running_std')


# -- against separate code -----------------------------------------------
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name', ['r1.5_d0.5', 'r1_d0'])
def test_fixture(name, dtype):
    want = fixture_of(f'formula_brn_{name}')
    limit = 1e-9 if dtype == torch.float64 else 4e-6
    r_max, d_max, alpha, eps = (
        float(want[key]) for key in ('r_max', 'd_max', 'alpha', 'eps')
    )
    layer = BRN(6, eps, alpha, r_max=r_max, d_max=d_max, dtype=dtype)
    state = {key: want[key] for key in ('weight', 'bias')}
    state.update({key: want[f'{key}0'] for key in BUFFERS})
    layer.load_state_dict(
        dict(state, num_batches_tracked=torch.tensor(0)), strict=True
    )
    for step in '12':
        dy = want[f'dy{step}'].to(dtype)
        got = run(layer, want[f'x{step}'].to(dtype), dy)
        for key, public in zip(
            ('y', 'x', 'weight', 'bias'), ('y', 'dx', 'dweight', 'dbias')
        ):
            assert relative_error(got[key], want[public + step]) < limit, key
        for key in BUFFERS:
            error = relative_error(getattr(layer, key), want[key + step])
            assert error < limit, (key, step)
    assert layer.num_batches_tracked == 2
    y = layer.eval()(want['x3'].to(dtype))
    assert relative_error(y, want['y_eval']) < limit


@pytest.mark.parametrize('step', [0, 20000])
def test_published_schedule_beside_public_code(step):
    """That code adds eps outside the root, which is all that differs."""
    want = fixture_of(f'brn_ludvb_step{step}')
    layer = BRN(6, eps=0, momentum=0.01, renorm_schedule={}).double()
    state = {
        key.partition('.')[2]: value
        for key, value in want.items()
        if key.startswith(('param.', 'buffer0.'))
    }
    layer.load_state_dict(state)
    assert layer.num_batches_tracked == step
    for key in ('train', 'train2'):
        x = want['x1' if key == 'train' else 'x2'].double()
        assert relative_error(layer(x), want[f'{key}.y']) < 3e-3
    state = layer.state_dict()
    assert state['num_batches_tracked'] == step + 2
    y = layer.eval()(want['x3'].double())
    assert relative_error(y, want['eval.y']) < 3e-3


# -- limits --------------------------------------------------------------
def test_limits_are_those_of_the_sn_papers_from_the_first_step_on():
    layer = build_norm_layer(dict(type='BRN'), 4)[1]
    assert layer.limits() == (1.5, 0.5)
    x = 100 * torch.randn(3, 4, 5, 5) + 300
    layer.train()(x)
    y = layer(x).detach()
    assert y.std() == pytest.approx(1.5, rel=0.1)
    assert y.mean() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    'step, r_max, d_max',
    [
        (0, 1, 0),
        (5000, 1, 0),
        (15000, 1 + 2 * 10 / 35, 2.5),
        (25000, 1 + 2 * 20 / 35, 5),
        (40000, 3, 5),
        (90000, 3, 5),
    ],
)
def test_published_schedule(step, r_max, d_max):
    layer = BRN(4, renorm_schedule={})
    layer.num_batches_tracked.fill_(step)
    got = [float(limit) for limit in layer.limits()]
    assert got == pytest.approx([r_max, d_max])


def test_schedule_counts_training_steps_and_goes_on_from_a_checkpoint():
    plan = dict(start=1, r_max=2.0, r_end=3, d_max=1.0, d_end=5)
    layer, seen = BRN(4, renorm_schedule=plan), []
    for _ in range(6):
        seen.append([float(limit) for limit in layer.limits()])
        layer.train()(torch.randn(2, 4, 3, 3))
        layer.eval()(torch.randn(2, 4, 3, 3))  # no training step
        other = BRN(4, renorm_schedule=plan)
        other.load_state_dict(layer.state_dict())
        layer = other
    assert seen == [[1, 0], [1, 0], [1.5, 0.25], [2, 0.5], [2, 0.75], [2, 1]]
    assert {**PUBLISHED_SCHEDULE, **plan} == plan


def test_bn_until_the_schedule_starts():
    layer = randomize(BRN(4, renorm_schedule={})).double()
    x = torch.randn(3, 4, 5, 5).double()
    want = nn.functional.batch_norm(
        x, None, None, layer.weight, layer.bias, training=True
    )
    assert relative_error(layer(x), want) < 1e-12


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(r_max=0.5), 'r_max must be a number of at least 1'),
        (dict(r_max=(1, 3)), 'renorm_schedule=dict'),
        (dict(d_max=-1), 'd_max must be a number of at least 0'),
        (dict(renorm_schedule=dict(r=3)), 'start, r_max, r_end'),
        (dict(renorm_schedule=dict(r_end=7)), 'start=5000 must lie between'),
        (dict(renorm_schedule=dict(d_end=1e4)), 'must be an int'),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises((TypeError, ValueError), match=text):
        BRN(4, **options)


@pytest.mark.parametrize('std', [0, 1e-5, 1e-4, 1e-3, 1])
def test_evaluation_rounds_no_small_deviation_away(std):
    layer = randomize(BRN(6)).eval()
    layer.running_std.fill_(std)
    x = torch.randn(2, 6, 4, 4)
    y = layer(x)
    own = {**layer._parameters, **layer._buffers}
    weight, bias, mean = (
        own[name].double().view(-1, 1, 1)
        for name in ('weight', 'bias', 'running_mean')
    )
    want = weight * (x.double() - mean) / max(std, layer.eps) + bias
    assert relative_error(y, want) < 1e-6


def test_bn_eval_takes_the_running_statistics():
    layer = randomize(BRN(4, bn_eval=True)).double()
    x, before = torch.randn(3, 4, 5, 5).double(), copy.deepcopy(layer)
    assert relative_error(layer.train()(x), before.eval()(x)) < 1e-12
    assert torch.equal(layer.running_std, before.running_std)


# -- beside batch norm ---------------------------------------------------
def bn(channels=8):
    return randomize(nn.BatchNorm2d(channels))


def test_a_state_of_bn_evaluates_to_the_same():
    old, x = bn().eval(), torch.randn(3, 8, 5, 5)
    old.num_batches_tracked.fill_(9)
    layer = BRN(8).eval()
    layer.load_state_dict(old.state_dict(), strict=True)
    assert relative_error(layer(x), old(x)) < 1e-6
    assert layer.num_batches_tracked == 9
    layer = BRN(8, renorm_schedule={})  # whose steps begin now
    layer.load_state_dict(old.state_dict(), strict=True)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize('schedule', [None, {}])
def test_a_file_of_a_network_with_bn(tmp_path, schedule):
    teacher = resnet(norm_cfg=dict(type='BN'))
    randomize(teacher)
    for m in teacher.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.num_batches_tracked.fill_(9)
    torch.save(teacher.state_dict(), tmp_path / 'bn.pth')
    cfg = dict(type='BRN', renorm_schedule=schedule)
    model = resnet(norm_cfg=cfg)
    report = load_pretrained(model, f'bn2norm://{tmp_path / "bn.pth"}')
    assert not report.missing
    assert model.bn1.num_batches_tracked == (9 if schedule is None else 0)
    x = torch.randn(1, 3, 64, 64).double()
    teacher.double().eval(), model.double().eval()
    for a, b in zip(model(x), teacher(x)):
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize('kind', ['BRN', 'SyncBRN'])
def test_conversion_there_and_back(kind):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), bn(), nn.ReLU()).eval()
    x = torch.randn(2, 3, 5, 5)
    want, weight = model(x), model[1].weight
    convert_norm(model, kind)
    assert type(model[1]).__name__ == kind and model[1].weight is weight
    assert relative_error(model(x), want) < 1e-6
    convert_norm(model, dict(type='BN'))
    assert type(model[1]) is nn.BatchNorm2d
    assert relative_error(model(x), want) < 1e-6


def test_a_frozen_bn_stays_what_it_is():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), bn())
    model[1].requires_grad_(False)
    x = torch.randn(2, 3, 5, 5)
    want = model.eval()(x)
    convert_norm(model.train(), 'BRN')
    assert isinstance(model[1], BRN) and model[1].bn_eval
    assert relative_error(model.train()(x), want) < 1e-6


def test_conversion_keeps_the_limits():
    model = nn.Sequential(BRN(8, r_max=2, d_max=1, momentum=0.05))
    convert_norm(model, 'SyncBRN')
    assert type(model[0]) is SyncBRN and model[0].limits() == (2, 1)
    assert model[0].momentum == 0.05


def test_folds_into_convolutions():
    model = resnet(norm_cfg=dict(type='BRN'))
    model.eval()
    for i, layer in enumerate(find_norms(model).values()):
        randomize(layer, i)
    x = torch.randn(1, 3, 64, 64)
    want = [y.clone() for y in model(x)]
    folded = fold(copy.deepcopy(model), size=64)
    assert not any(isinstance(m, RowNorm) for m in folded.modules())
    for a, b in zip(folded(x), want):
        assert relative_error(a, b) < 1e-4


@pytest.mark.parametrize('second_moment', [False, True])
def test_batch_average(second_moment):
    """Of moments that BN would have had, whatever r and d are."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), randomize(BRN(8)))
    before = copy.deepcopy(model)
    batches = [torch.randn(4, 3, 6, 6) + i for i in range(3)]
    update_batch_average(
        model, batches, progress=False, second_moment=second_moment
    )
    maps = [before[0](x).double().transpose(0, 1).flatten(1) for x in batches]
    means = torch.stack([t.mean(1) for t in maps])
    var = torch.stack([t.var(1, unbiased=False) for t in maps]).mean(0)
    if second_moment:
        var = var + means.var(0, unbiased=False)
    layer = model[1]
    assert relative_error(layer.running_mean, means.mean(0)) < 1e-5
    assert relative_error(layer.running_std, (var + 1e-5).sqrt()) < 1e-5
    assert torch.equal(layer.num_batches_tracked, torch.tensor(0))
    assert layer.measures is None


# -- synchronized --------------------------------------------------------
def synchronized(rank: int) -> dict:
    layer = randomize(SyncBRN(8)).double()
    x = torch.randn(5, 8, 4, 3, generator=torch.Generator().manual_seed(1))
    own = slice(0, 4) if rank == 0 else slice(4, 5)
    layer(x.double()[own]).square().sum().backward()
    return layer.state_dict()


def test_running_statistics_are_those_of_all_processes():
    states = run_processes(synchronized)
    layer = randomize(BRN(8)).double()
    x = torch.randn(5, 8, 4, 3, generator=torch.Generator().manual_seed(1))
    layer(x.double())
    for state in states:
        for name, value in layer.state_dict().items():
            assert relative_error(state[name], value) < 1e-12, name


@pytest.mark.parametrize('use_reentrant', [True, False])
@pytest.mark.parametrize('schedule', [None, dict(start=0, r_end=9, d_end=7)])
def test_an_activation_checkpoint_repeats_the_same_step(
    schedule, use_reentrant
):
    """Gradients, statistics and the count of steps are those without it."""
    gen = torch.Generator().manual_seed(0)
    start = randomize(BRN(5, momentum=0.3, renorm_schedule=schedule)).double()
    start.num_batches_tracked.fill_(4)
    layers = [copy.deepcopy(start) for _ in range(2)]
    for _ in range(3):
        x = 2 * torch.randn(3, 5, 4, 6, generator=gen).double() + 1
        dy = torch.randn(x.shape, generator=gen).double()
        found = []
        for layer, is_repeated in zip(layers, (False, True)):
            layer.zero_grad()
            leaf = x.clone().requires_grad_()
            if is_repeated:
                y = checkpoint(layer, leaf, use_reentrant=use_reentrant)
            else:
                y = layer(leaf)
            y.backward(dy)
            grads = {n: p.grad for n, p in layer.named_parameters()}
            state = {f'state.{n}': t for n, t in layer.state_dict().items()}
            found.append(dict(y=y, x=leaf.grad, **grads, **state))
        for name, want in found[0].items():
            assert torch.equal(found[1][name], want), name
    assert int(layers[1].num_batches_tracked) == 7
