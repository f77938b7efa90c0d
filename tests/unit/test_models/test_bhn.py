# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""BHN's backbones: their parameters, and the same in plain operations."""

from __future__ import annotations

import copy
import importlib.util
import pickle

import pytest
import torch
from mmengine.model import (
    ExponentialMovingAverage,
    MMDistributedDataParallel,
)
from mmengine.registry import MODELS
from torch import Tensor, nn

import sn_mm.models.bhn  # noqa: F401  (registers the backbones)
from sn_mm.anatomy.norms import find_norms
from sn_mm.functional.reference import hyper_norm_reference
from sn_mm.layers import BHN, SyncBHN
from sn_mm.layers.hyper import LSTM
from sn_mm.recalibrate import update_batch_average
from tests.builders import TINY, build, outputs_and_grads
from tests.distributed import run_processes
from tests.utils import (
    assert_close,
    cpu_autocast_dtypes,
    randomize,
    relative_error,
)

SCOPES = ('mmdet', 'mmseg')
needs_mmpretrain = pytest.mark.skipif(
    not importlib.util.find_spec('mmpretrain'), reason='needs mmpretrain'
)
# parameters with BN, and with BHN, of networks with 1000 classes
RESNETS = {
    18: (512, 11_689_512, 12_564_232),
    50: (2048, 25_557_032, 26_428_040),
    101: (2048, 44_549_160, 45_411_464),
}
# width of the blocks inside: how many blocks of such a width have BHN
SE_RESNET_50 = {64: 3, 128: 4, 256: 6, 512: 3}
SHUFFLENET_V2 = {58: 3, 116: 7, 232: 3}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def classifier(features: int) -> int:
    return parameters(nn.Linear(features, 1000))


# -- numbers of parameters -----------------------------------------------
@pytest.mark.parametrize('depth', RESNETS)
@pytest.mark.parametrize('hyper_norm', [1, 2])
@pytest.mark.parametrize('scope', SCOPES)
def test_parameters_of_resnets(scope, hyper_norm, depth):
    features, bn, bhn = RESNETS[depth]
    options = dict(depth=depth, _scope_=scope)
    with torch.device('meta'):
        before = MODELS.build(dict(type='ResNet', **options))
        model = MODELS.build(
            dict(type='BHNResNet', hyper_norm=hyper_norm, **options)
        )
    assert parameters(before) + classifier(features) == bn
    assert parameters(model) + classifier(features) == bhn


@pytest.mark.parametrize(
    'widths, bn, bhn',
    [
        (SE_RESNET_50, 28_088_024, 28_959_032),
        (SHUFFLENET_V2, 2_278_604, 2_455_010),
    ],
)
def test_parameters_from_widths(widths, bn, bhn):
    """An LSTM for each width; each of its norms loses gamma and beta."""
    lstms = sum(parameters(BHN(width)) for width in widths)
    lost = sum(2 * width * blocks for width, blocks in widths.items())
    assert bn - lost + lstms == bhn


@needs_mmpretrain
@pytest.mark.parametrize(
    'cfg, features, count',
    [
        (dict(type='BHNSEResNet', depth=50), 2048, 28_959_032),
        (dict(type='BHNShuffleNetV2'), 1024, 2_455_010),
        (dict(type='BHNResNet', depth=18), 512, 12_564_232),
    ],
)
def test_mmpretrains_networks(cfg, features, count):
    model = build('mmpretrain', cfg)
    assert parameters(model) + classifier(features) == count
    widths = [m.num_features for m in model.modules() if type(m) is BHN]
    if 'Shuffle' in cfg['type']:
        assert widths == [
            w for w, n in SHUFFLENET_V2.items() for _ in range(n)
        ]
    (y,) = model(torch.randn(2, 3, 64, 64))
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# -- values --------------------------------------------------------------
def bhn_resnet(scope: str = 'mmdet', **options) -> nn.Module:
    cfg = dict(TINY, norm_eval=False)
    model = build(scope, dict(type='BHNResNet', **{**cfg, **options})).double()
    for seed, norm in enumerate(find_norms(model).values()):
        randomize(norm, seed)
    model.train()
    return model


def image(samples: int = 2) -> Tensor:
    gen = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, 64, 72, generator=gen).double()


def plain_forward(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Its convolutions, sums and batch norms, and BHN by reference."""
    x = model.relu(model.norm1(model.conv1(x)))
    x, outputs = model.maxpool(x), []
    for layer in model.res_layers:
        state = None
        lstm = None
        for block in getattr(model, layer):
            y = x
            numbers = [n for n in '123' if hasattr(block, f'conv{n}')]
            for n in numbers:
                y = getattr(block, f'conv{n}')(y)
                norm = getattr(block, f'norm{n}')
                if isinstance(norm, BHN):
                    if lstm is None:
                        lstm = dict(zip(LSTM, norm.lstm()))
                    running = (None, None)
                    if not norm.training:
                        running = norm.running_mean, norm.running_var
                    y, *state = hyper_norm_reference(
                        y, lstm, *running, state=state
                    )
                else:
                    y = norm(y)
                y = y.relu() if n != numbers[-1] else y
            if block.downsample is not None:
                x = block.downsample(x)
            x = (x + y).relu()
        outputs.append(x)
    return outputs


def results(model: nn.Module, is_plain: bool = False) -> dict[str, Tensor]:
    if is_plain:
        model.forward = lambda x: plain_forward(model, x)
    return outputs_and_grads(model, image())


@pytest.mark.parametrize(
    'options',
    [
        dict(depth=18),
        dict(depth=50),
        dict(depth=50, hyper_norm=1, style='caffe'),
        dict(depth=50, frozen_stages=2),
        dict(depth=18, with_cp=True),
        dict(depth=50, with_cp=True, frozen_stages=1),
        dict(depth=18, evaluates=True),
    ],
    ids=str,
)
@pytest.mark.parametrize('scope', SCOPES)
def test_is_the_plain_network(scope, options):
    options = dict(options)
    evaluates = options.pop('evaluates', False)
    model = bhn_resnet(scope, **options)
    model.train(not evaluates)
    want = results(copy.deepcopy(model), is_plain=True)
    assert_close(results(model), want, 1e-8)


def test_one_norm_of_each_block_is_hyper():
    model = bhn_resnet(depth=50)
    names = [n for n, m in find_norms(model).items() if isinstance(m, BHN)]
    assert len(names) == 16 and all(n.endswith('bn2') for n in names)
    keys = [k for k in model.state_dict() if 'weight_ih_0' in k]
    assert keys == [f'layer{i}.0.bn2.weight_ih_0' for i in range(1, 5)]
    leads = {m.lead() for m in model.modules() if isinstance(m, BHN)}
    assert len(leads) == 4


def test_synchronized_beside_synchronized_norms():
    model = build(
        'mmseg', dict(TINY, type='BHNResNet', norm_cfg=dict(type='SyncBN'))
    )
    assert sum(type(m) is SyncBHN for m in model.modules()) == 8


def test_frozen_stages():
    model = build('mmdet', dict(type='BHNResNet', frozen_stages=2, **TINY))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {f'layer{i}.0.bn2.weight_ih_0' for i in (1, 2)} <= frozen
    model.train()
    before = copy.deepcopy(model.state_dict())
    sum(y.square().mean() for y in model(image().float())).backward()
    for name, p in model.named_parameters():
        assert p.requires_grad is (p.grad is not None), name
    for name, norm in model.named_modules():
        if isinstance(norm, BHN):
            is_frozen = name.startswith(('layer1', 'layer2'))
            assert norm.training is not is_frozen
            mean = before[f'{name}.running_mean']
            assert torch.equal(norm.running_mean, mean) is is_frozen


def test_copies_and_averages():
    model = bhn_resnet()
    average = ExponentialMovingAverage(
        model, momentum=0.5, update_buffers=True
    )
    average.update_parameters(model)
    lstm = model.layer2[0].norm2.weight_hh_1
    start = lstm.detach().clone()
    with torch.no_grad():
        lstm.add_(1)
    average.update_parameters(model)
    got = average.module.layer2[1].norm2.lead().weight_hh_1
    assert relative_error(got, start + 0.5) < 1e-12
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert parameters(other) == parameters(model)
        for a, b in zip(other(image()), model(image())):
            assert torch.equal(a, b)


def test_batch_average_and_conversion():
    model = bhn_resnet()
    done = update_batch_average(model, [image(), 2 * image()], progress=False)
    assert len(done.layers) == 8
    sn_mm.convert_norm(model, 'SyncBHN', include=BHN)
    assert sum(type(m) is SyncBHN for m in model.modules()) == 8
    want = results(copy.deepcopy(model), is_plain=True)
    assert_close(results(model), want, 1e-8)


@pytest.mark.parametrize('kind', ['BN', 'SyncBHN'])
@pytest.mark.parametrize('blocks', [[0], [1], [0, 1], [0, 2], [0, 1, 2]])
def test_conversion_of_some_layers_of_a_stage(blocks, kind):
    """The LSTM is the next layer's then, in the model, and learned."""
    model = bhn_resnet(depth=50)
    lstm = model.layer1[0].bn2.lstm()
    names = [f'layer1.{i}.bn2' for i in blocks]
    sn_mm.convert_norm(model, kind, include=names)
    left = [b.bn2 for b in model.layer1 if isinstance(b.bn2, BHN)]
    assert len(left) == 3 - (kind == 'BN') * len(blocks)
    owners = {id(p): n for n, p in model.named_parameters()}
    for name, p in zip(LSTM, lstm):
        assert (id(p) in owners) is bool(left), name
    for norm in left:
        assert norm.lead() is left[0]
        assert all(a is b for a, b in zip(norm.lead().lstm(), lstm))
    got = results(copy.deepcopy(model))
    assert_close(got, results(copy.deepcopy(model), is_plain=True), 1e-8)
    sn_mm.convert_norm(model, 'SyncBHN', include=BHN)  # those that are left
    left = [b.bn2 for b in model.layer1 if isinstance(b.bn2, BHN)]
    assert all(norm.lead() is left[0] for norm in left)


def test_a_block_on_its_own():
    model = bhn_resnet()
    x = torch.randn(2, 8, 16, 16).double()
    with pytest.raises(RuntimeError, match='call the stage or the backbone'):
        model.layer1[1](x)
    assert model.layer1(x).isfinite().all()


@pytest.mark.parametrize(
    'options, match',
    [
        (dict(hyper_norm=3), 'hyper_norm must be 1 or 2'),
        (dict(norm_cfg=dict(type='BHN')), 'hyper_cfg=dict'),
        (dict(hyper_cfg=dict(type='SN')), "type to 'BHN'"),
    ],
)
def test_errors_name_the_fix(options, match):
    with pytest.raises(ValueError, match=match):
        bhn_resnet(**options)


@pytest.mark.parametrize('dtype', cpu_autocast_dtypes())
def test_autocast(dtype):
    model = bhn_resnet().float()
    with torch.autocast('cpu', dtype):
        outputs = model(image().float())
        sum(y.float().square().mean() for y in outputs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def step_in_parallel(rank: int) -> dict[str, Tensor]:
    """Shared parameters, checkpoints and DistributedDataParallel at once."""
    model = bhn_resnet(with_cp=True, norm_cfg=dict(type='BN'))
    model.eval()  # so that two shares are a whole
    model = MMDistributedDataParallel(model, broadcast_buffers=False)
    x = image()[rank : rank + 1].requires_grad_()
    for _ in range(2):
        model.zero_grad()
        sum(y.square().sum() for y in model(x)).backward()
    return {n: p.grad for n, p in model.module.named_parameters()}


def test_data_parallel():
    first, second = run_processes(step_in_parallel)
    model = bhn_resnet()
    model.eval()
    sum(y.square().sum() for y in model(image())).backward()
    for name, p in model.named_parameters():
        assert torch.equal(first[name], second[name]), name
        assert relative_error(2 * first[name], p.grad) < 1e-9, name
