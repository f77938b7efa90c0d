# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""IBN: numbers of the public code, halves, modes, conversions."""

import copy
import warnings

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

import sn_mm.models.ibn_resnet  # noqa: F401
from sn_mm import (
    convert_norm,
    find_norms,
    load_pretrained,
    update_batch_average,
)
from sn_mm.checkpoints import CheckpointError
from sn_mm.layers import IBN, SyncIBN, base
from tests.builders import build, resnet
from tests.distributed import run_processes
from tests.family import fixture_of
from tests.utils import randomize, relative_error, run


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_fixture_of_the_public_code(dtype):
    want = fixture_of('ibn_a')
    limit = 1e-9 if dtype == torch.float64 else 1e-6
    layer = IBN(8, dtype=dtype)
    layer.load_state_dict(
        {
            key.partition('.')[2]: value
            for key, value in want.items()
            if key.startswith(('param.', 'buffer0.'))
        },
        strict=True,
    )

    def check(mode, x, dy):
        got = run(layer, want[x].to(dtype), want[dy].to(dtype))
        assert relative_error(got.pop('y'), want[f'{mode}.y']) < limit
        assert relative_error(got.pop('x'), want[f'{mode}.dx']) < limit
        for name, grad in got.items():
            assert relative_error(grad, want[f'{mode}.grad.{name}']) < limit

    check('train', 'x1', 'dy1')
    for step in '12':
        if step == '2':
            y = layer(want['x2'].to(dtype))
            assert relative_error(y, want['train2.y']) < limit
        for name, buffer in layer.named_buffers():
            assert relative_error(buffer, want[f'buffer{step}.{name}']) < limit
    layer.eval()
    check('eval', 'x3', 'dy3')


@pytest.mark.parametrize(
    'channels, options, instance',
    [
        (64, {}, 32),
        (7, {}, 3),
        (10, dict(ratio=0.25), 2),
        (64, dict(ratio=0.4, instance_first=False), 26),
        (160, dict(ratio=0.4, instance_first=False), 64),
    ],
)
def test_halves(channels, options, instance):
    layer = IBN(channels, **options)
    assert layer.IN.num_features == instance
    assert layer.BN.num_features == channels - instance
    names = [name for name, _ in layer.named_children()]
    first = options.get('instance_first', True)
    assert names == (['IN', 'BN'] if first else ['BN', 'IN'])


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(num_features=1), 'both need at least one'),
        (dict(num_features=8, ratio=0.1), 'leaves 0 for IN and 8 for BN'),
        (dict(num_features=8, ratio=1), 'between 0 and 1'),
        (dict(num_features=8, ratio='a'), 'between 0 and 1'),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        IBN(**options)


def test_without_affine_and_without_running_statistics():
    layer = IBN(8, affine=False, track_running_stats=False)
    assert not layer.state_dict()
    x = torch.randn(3, 8, 4, 4)
    want = torch.cat(
        [
            nn.functional.instance_norm(x[:, :4]),
            nn.functional.batch_norm(x[:, 4:], None, None, training=True),
        ],
        1,
    )
    for training in (True, False):
        assert relative_error(layer.train(training)(x), want) < 1e-5


def test_norm_eval_freezes_the_bn_half_alone():
    model = resnet(norm_cfg=dict(type='IBN'), norm_eval=True)
    model.train()
    layer = model.layer1[0].bn1
    assert layer.training and not layer.BN.training
    before = copy.deepcopy(layer)
    x = torch.randn(2, 8, 6, 6)
    assert relative_error(layer(x), before.eval()(x)) < 1e-6
    assert torch.equal(layer.BN.running_mean, before.BN.running_mean)
    assert layer.why_not_averaged() == 'frozen in evaluation mode'


def test_says_once_that_it_stands_everywhere(monkeypatch):
    monkeypatch.setattr(base, '_SPOKEN', set())
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        for _ in range(2):
            model = resnet(norm_cfg=dict(type='IBN'))
            model.train()
            model(torch.randn(2, 3, 64, 64))
    texts = [str(w.message) for w in found if 'IBN' in str(w.message)]
    assert len(texts) == 1 and 'not the published placement' in texts[0]


def test_it_is_one_norm_for_the_tools():
    model = resnet(norm_cfg=dict(type='IBN'))
    norms = find_norms(model)
    assert {type(m) for m in norms.values()} == {IBN}


# -- beside batch norm ---------------------------------------------------
def test_conversion_there_and_back():
    model = nn.Sequential(randomize(nn.BatchNorm2d(8)))
    state = copy.deepcopy(model.state_dict())
    convert_norm(model, dict(type='IBN', ratio=0.25), include='0')
    layer = model[0]
    assert layer.is_placed and layer.caveat() is None
    assert torch.equal(layer.IN.weight, state['0.weight'][:2])
    assert torch.equal(layer.BN.running_var, state['0.running_var'][2:])
    convert_norm(model, 'SyncIBN')
    assert type(model[0]) is SyncIBN and model[0].is_placed
    assert model[0].IN.num_features == 2
    convert_norm(model, 'BN')
    for name in ('weight', 'bias'):
        assert torch.equal(getattr(model[0], name), state[f'0.{name}'])
    assert torch.equal(model[0].running_mean[2:], state['0.running_mean'][2:])


def test_a_file_of_a_network_with_bn(tmp_path):
    teacher = randomize(resnet(norm_cfg=dict(type='BN')))
    torch.save(teacher.state_dict(), tmp_path / 'bn.pth')
    cfg = dict(type='IBNResNet', depth=18, base_channels=8, stem_channels=8)
    model = build('mmdet', cfg)
    report = load_pretrained(model, f'bn2norm://{tmp_path / "bn.pth"}')
    assert not report.missing
    old, new = teacher.layer1[0].bn1, model.layer1[0].bn1
    assert torch.equal(new.IN.weight, old.weight[:4])
    assert torch.equal(new.BN.running_var, old.running_var[4:])
    assert torch.equal(model.layer4[0].bn1.bias, teacher.layer4[0].bn1.bias)


def test_a_frozen_bn_is_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    model[1].requires_grad_(False)
    convert_norm(model, 'IBN')
    assert type(model[1]) is nn.BatchNorm2d


def test_tensors_of_another_norm_are_refused():
    layer = build_norm_layer(dict(type='IBN'), 8)[1]
    with pytest.raises(CheckpointError, match='ibn://FILE'):
        layer.load_state_dict(nn.BatchNorm2d(8).state_dict())


@pytest.mark.parametrize('include_bn', [False, True])
def test_batch_average(include_bn):
    """The BN half's, unbiased as torch's BN tracks it."""
    model = nn.Sequential(IBN(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    batches = [torch.randn(2, 8, 3, 3) + i for i in range(3)]
    done = update_batch_average(
        model, batches, include_bn=include_bn, progress=False
    )
    assert done.layers == (['0', '2'] if include_bn else ['0'])
    assert not done.left
    half = [x[:, 4:].double().transpose(0, 1).flatten(1) for x in batches]
    mean = torch.stack([t.mean(1) for t in half]).mean(0)
    var = torch.stack([t.var(1) for t in half]).mean(0)
    assert relative_error(model[0].BN.running_mean, mean) < 1e-5
    assert relative_error(model[0].BN.running_var, var) < 1e-5


# -- synchronized --------------------------------------------------------
def synchronized(rank: int) -> list[dict]:
    x = torch.randn(5, 8, 4, 3, generator=torch.Generator().manual_seed(1))
    own = x.double()[slice(0, 4) if rank == 0 else slice(4, 5)]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.Sequential(randomize(IBN(8)))
    )[0]
    assert isinstance(converted.BN, nn.SyncBatchNorm)
    found = []
    for layer in (randomize(SyncIBN(8)), converted):
        layer.double()
        found.append(dict(layer.state_dict(), y=layer(own)))
        found[-1].update(layer.state_dict())
    return found


def test_synchronized_also_by_torchs_conversion():
    layer = randomize(IBN(8)).double()
    x = torch.randn(5, 8, 4, 3, generator=torch.Generator().manual_seed(1))
    y = layer(x.double())
    for states, part in zip(run_processes(synchronized), (y[:4], y[4:])):
        for state in states:
            want = dict(layer.state_dict(), y=part)
            for name, value in want.items():
                assert relative_error(state[name], value) < 1e-12, name
