# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""HyperNormalization: the LSTM, the rule, the layers and their chains."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

from sn_mm import convert_norm
from sn_mm.functional.hyper import HyperRule, trimmed_lstm
from sn_mm.functional.reference import hyper_norm_reference
from sn_mm.functional.rows import normalize_rows
from sn_mm.layers import BHN, SyncBHN
from sn_mm.layers.hyper import LSTM, Chain, share_among
from sn_mm.layers.relay import relaying
from sn_mm.utils.errors import CheckpointError
from tests.distributed import run_processes
from tests.family import fixture_of
from tests.utils import assert_close, randomize, relative_error

WIDTH = 8


def public_parameters(data: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = 'param.'
    return {
        n[len(prefix) :]: t for n, t in data.items() if n.startswith(prefix)
    }


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def features(seed: int = 0, samples: int = 3) -> Tensor:
    gen = torch.Generator().manual_seed(seed)
    level = torch.randn(samples, WIDTH, 1, 1, generator=gen)
    x = torch.randn(samples, WIDTH, 5, 4, generator=gen)
    return (x + level).double()


class Stage(nn.Module):
    """Norms of one width, run one after the other."""

    def __init__(self, length: int = 3, kind: type = BHN) -> None:
        super().__init__()
        self.norms = nn.ModuleList(kind(WIDTH) for _ in range(length))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = norm(x).sin()
        return x


def chained(kind: type = BHN) -> Stage:
    stage = Stage(kind=kind).double()
    randomize(stage.norms[0])
    Chain({f'norms.{i}': n for i, n in enumerate(stage.norms)})
    return stage


def plain_stage(stage: Stage, x: Tensor) -> Tensor:
    lstm = dict(zip(LSTM, stage.norms[0].lstm()))
    state = None
    for norm in stage.norms:
        running = (None, None)
        if not norm.training:
            running = norm.running_mean, norm.running_var
        x, *state = hyper_norm_reference(x, lstm, *running, state=state)
        x = x.sin()
    return x


def gradients(y: Tensor, stage: nn.Module, x: Tensor) -> dict[str, Tensor]:
    names, params = zip(*stage.named_parameters())
    grads = torch.autograd.grad(y.square().sum(), (x, *params))
    return dict(zip(('y', 'x', *names), (y.detach(), *grads)))


# -- fixtures ------------------------------------------------------------
def test_lstm_fixture():
    data = fixture_of('dia_lstm')
    layer = BHN(16).double()
    missing = layer.load_state_dict(public_parameters(data), strict=False)
    assert not missing.unexpected_keys  # DIANet's names
    xs = leaves(*(data[f'x{i}'] for i in range(3)))
    h = c = torch.zeros(3, 16).double()
    loss = 0
    for i, x in enumerate(xs):
        lstm = layer.lstm()
        h, c = trimmed_lstm(x, h, c, lstm[:4], lstm[4:])
        assert relative_error(h, data[f'h{i}']) < 1e-13
        assert relative_error(c, data[f'c{i}']) < 1e-13
        loss = loss + (h * data[f'dh{i}'] + c * data[f'dc{i}']).sum()
    check_gradients(loss, layer, xs, data)


def check_gradients(loss, layer, xs, data, tolerance=1e-12) -> None:
    grads = torch.autograd.grad(loss, (*xs, *layer.lstm()))
    public = {own: name for name, own in BHN.public_names.items()}
    names = [f'dx{i}' for i in range(3)]
    names += [f'grad.{public[name]}' for name in LSTM]
    for name, grad in zip(names, grads):
        assert relative_error(grad, data[name]) < tolerance, name


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('by_chain', [True, False])
def test_stage_fixture(by_chain, dtype):
    data = fixture_of('formula_bhn_stage')
    norms = [BHN(16).to(dtype) for _ in range(3)]
    norms[0].load_state_dict(public_parameters(data), strict=False)
    if by_chain:
        Chain(dict(zip('abc', norms)))
    else:
        share_among(norms)
    xs = leaves(*(data[f'x{i}'].to(dtype) for i in range(3)))
    tolerance = 1e-11 if dtype is torch.float64 else 4e-6
    loss, state = 0, None
    for i, (norm, x) in enumerate(zip(norms, xs)):
        if by_chain:
            y = norm(x)
        else:
            with relaying(norm, state) as relay:
                y = norm(x)
            state = relay.left
            for own, name in zip(state, 'hc'):
                assert relative_error(own, data[f'{name}{i}']) < tolerance
        assert relative_error(y, data[f'y{i}']) < tolerance
        loss = loss + (y * data[f'dy{i}'].to(dtype)).sum()
    check_gradients(loss, norms[0], xs, data, tolerance)


def test_rule_is_the_reference():
    layer = randomize(BHN(WIDTH).double())
    inputs = leaves(
        features(), *(features(s)[..., 0, 0] for s in (1, 2)), *layer.lstm()
    )
    x, h, c, *lstm = inputs
    y, *state, _ = normalize_rows(x, HyperRule(1e-5), h, c, *lstm)
    want, *wanted = hyper_norm_reference(
        x, dict(zip(LSTM, lstm)), state=(h, c)
    )
    got = torch.autograd.grad(
        (y * features(3)).sum() + (state[0] * state[1]).sum(), inputs
    )
    exact = torch.autograd.grad(
        (want * features(3)).sum() + (wanted[0] * wanted[1]).sum(), inputs
    )
    for a, b in zip((y, *state, *got), (want, *wanted, *exact)):
        assert relative_error(a, b) < 1e-11


def test_a_new_layer():
    """Scales between 0 and 1; PyTorch's initial values of Linear."""
    torch.manual_seed(0)
    layer = BHN(64)
    assert layer.weight is None and layer.bias is None
    assert sum(p.numel() for p in layer.parameters()) == 2.5 * 64**2 + 8.5 * 64
    like = nn.Linear(64, 16)
    assert layer.weight_ih_0.shape == like.weight.shape
    assert layer.weight_ih_0.abs().max() <= 1 / 8
    assert float(layer.weight_ih_0.detach().std()) == pytest.approx(
        1 / 8 / 3**0.5, rel=0.1
    )
    assert layer.bias_ih_1.abs().max() <= 1 / 4
    with relaying(layer) as relay:
        layer(torch.zeros(2, 64, 3, 3))
    h, c = relay.left
    assert ((h > 0) & (h < 1)).all() and c.abs().max() < 0.5


@pytest.mark.parametrize('width', [1, 3, 58])
def test_widths_that_the_reduction_does_not_divide(width):
    layer = BHN(width)
    assert len(layer.bias_ih_0) == max(width // 4, 1)
    assert layer(torch.randn(2, width, 4, 4)).isfinite().all()


# -- chains --------------------------------------------------------------
@pytest.mark.parametrize('training', [True, False])
def test_chain_is_the_plain_stage(training):
    stage = chained().train(training)
    for norm in stage.norms:
        norm.running_mean.uniform_(-0.5, 0.5)
    for seed in range(2):  # the second call starts from zero again
        (x,) = leaves(features(seed))
        want = gradients(plain_stage(stage, x), stage, x)
        assert_close(gradients(stage(x), stage, x), want, 1e-10)


def test_parameters_are_there_once():
    stage = chained()
    keys = [n for n in stage.state_dict() if 'weight' in n or 'bias' in n]
    assert keys == [f'norms.0.{name}' for name in LSTM]
    assert [n for n, _ in stage.named_parameters()] == keys
    other = chained()
    other.load_state_dict(stage.state_dict(), strict=True)
    assert torch.equal(other(features()), stage(features()))


def test_copies_are_chains_of_their_own():
    stage = chained()
    stage.norms[0](features())  # and stop in the middle
    for other in (copy.deepcopy(stage), pickle.loads(pickle.dumps(stage))):
        assert other.norms[2].lead() is other.norms[0]
        assert other.norms[1].chain is other.norms[0].chain
        assert other.norms[1].chain is not stage.norms[1].chain
        y = other(features())
        with torch.no_grad():
            other.norms[0].weight_ih_1.add_(1)
        assert not torch.equal(other(features()), y)
        assert torch.equal(stage(features()), y)


@pytest.mark.parametrize('with_buffers', [True, False])
def test_average_moves_the_lstm_once(with_buffers):
    stage = chained()
    average = ExponentialMovingAverage(
        stage, momentum=0.25, update_buffers=with_buffers
    )
    values = []
    for step in range(3):
        with torch.no_grad():
            stage.norms[0].weight_ih_0.add_(step)
        average.update_parameters(stage)
        values.append(stage.norms[0].weight_ih_0.detach().clone())
    want = values[0]
    for value in values[1:]:
        want = want + 0.25 * (value - want)
    got = average.module.norms[2].lead().weight_ih_0
    assert relative_error(got, want) < 1e-12


def test_moving_a_model_moves_what_it_shares():
    stage = chained().float()
    assert stage.norms[2].lead().weight_ih_0.dtype == torch.float32
    assert stage(features().float()).dtype == torch.float32


def test_order_is_checked():
    stage, x = chained(), features()
    with pytest.raises(RuntimeError, match='norms.1 ran without the one befo'):
        stage.norms[1](x)
    stage.norms[0](x)
    with pytest.raises(RuntimeError, match=r'norms.2 ran right after norms.0'):
        stage.norms[2](x)
    stage.norms[0](x)
    with pytest.raises(RuntimeError, match='on 2 samples.*exclude'):
        stage.norms[1](x[:2])
    assert stage(x).isfinite().all()  # from the start again
    with pytest.raises(RuntimeError, match='without the one before'):
        stage.norms[2](x)


def test_a_checkpoint_around_a_part_of_a_chain_is_refused():
    stage = chained()
    (x,) = leaves(features())
    run = torch.utils.checkpoint.checkpoint
    y = run(lambda x: stage(x), x, use_reentrant=False)
    want = gradients(plain_stage(stage, x), stage, x)
    assert_close(gradients(y, stage, x), want, 1e-10)
    y = stage.norms[0](x)
    y = run(stage.norms[1], y, use_reentrant=False)
    y = stage.norms[2](y)
    with pytest.raises(RuntimeError, match='activation checkpoints'):
        y.sum().backward()


def test_a_layer_of_a_stage_on_its_own():
    norms = [BHN(WIDTH) for _ in range(2)]
    share_among(norms)
    norms[0](features().float())
    with pytest.raises(RuntimeError, match='call the stage or the backbone'):
        norms[1](features().float())


def test_only_equal_norms_share():
    with pytest.raises(ValueError, match='same num_features, got 16 and 8'):
        share_among([BHN(8), BHN(16)])
    with pytest.raises(ValueError, match='same reduction, got 4 and 2'):
        share_among([BHN(8, reduction=2), BHN(8)])


def test_empty_batches():
    stage = chained()
    (x,) = leaves(features()[:0])
    y = stage(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert not any(p.grad.any() for p in stage.parameters())


# -- other norms ---------------------------------------------------------
def test_converting_keeps_what_is_shared():
    stage = chained()
    lstm = stage.norms[0].lstm()
    want = copy.deepcopy(stage)(features())
    convert_norm(stage, dict(type='SyncBHN'))
    assert all(type(norm) is SyncBHN for norm in stage.norms)
    for own, before in zip(stage.norms[2].lead().lstm(), lstm):
        assert own is before
    assert len(list(stage.parameters())) == len(LSTM)
    assert torch.equal(stage(features()), want)


def test_converting_from_and_to_batch_norm():
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH))
    model[1].running_mean.fill_(2)
    convert_norm(model, 'BHN')
    assert type(model[1]) is BHN and (model[1].running_mean == 2).all()
    convert_norm(model, 'BN')
    assert type(model[1]) is nn.BatchNorm2d and model[1].affine
    assert (model[1].running_mean == 2).all()
    model[1].requires_grad_(False)
    convert_norm(model, 'BHN')  # which cannot stand still as it does
    assert type(model[1]) is nn.BatchNorm2d


def test_weights_of_batch_norm_are_refused():
    with pytest.raises(CheckpointError, match='init_cfg=None'):
        BHN(8).load_state_dict(nn.BatchNorm2d(8).state_dict(), strict=False)


@pytest.mark.parametrize('reduction', [0, 1.5, True])
def test_reduction_is_a_count(reduction):
    with pytest.raises((TypeError, ValueError), match='reduction must be'):
        BHN(8, reduction=reduction)


# -- synchronized --------------------------------------------------------
def step_in_parallel(rank: int) -> dict[str, Tensor]:
    stage = chained(SyncBHN)
    share = (slice(0, 3), slice(3, 4))[rank]
    (x,) = leaves(features(0, 4)[share])
    return gradients(stage(x), stage, x)


def test_processes_pool_their_batches():
    got = run_processes(step_in_parallel)
    stage = chained()
    (x,) = leaves(features(0, 4))
    want = gradients(plain_stage(stage, x), stage, x)
    for name in ('x', 'y'):
        assert (
            relative_error(torch.cat([g[name] for g in got]), want[name])
            < 1e-10
        )
    for name, _ in stage.named_parameters():
        assert relative_error(sum(g[name] for g in got), want[name]) < 1e-10
