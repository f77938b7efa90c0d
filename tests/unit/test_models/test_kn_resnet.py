# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""KNResNet against the same network in plain operations."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from mmengine.model import (
    ExponentialMovingAverage,
    MMDistributedDataParallel,
)
from torch import Tensor, nn

import sn_mm.models.kn_resnet  # noqa: F401  (registers KNResNet)
from sn_mm.analysis.caveats import caveats
from sn_mm.anatomy.norms import find_norms
from sn_mm.functional.kalman import rectified_moments
from sn_mm.functional.reference import kalman_norm_reference
from sn_mm.recalibrate import update_batch_average
from sn_mm.surgery.fold import fold_with_report
from tests.builders import TINY, build, outputs_and_grads
from tests.distributed import run_processes
from tests.utils import (
    assert_close,
    cpu_autocast_dtypes,
    randomize,
    relative_error,
)

SCOPES = ('mmdet', 'mmseg')
P = 0.3


def kn_resnet(scope: str = 'mmdet', **options) -> nn.Module:
    cfg = dict(TINY, norm_cfg=dict(type='KN', p=P), norm_eval=False)
    model = build(scope, dict(type='KNResNet', **{**cfg, **options})).double()
    for seed, norm in enumerate(find_norms(model).values()):
        randomize(norm, seed)
    model.train()
    return model


def image(samples: int = 2) -> Tensor:
    gen = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, 64, 72, generator=gen).double()


class Plain:
    """What the model means: its convolutions, sums, and KN by reference."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> list[Tensor]:
        model = self.model
        layers = (
            list(model.stem) if model.deep_stem else [model.conv1, model.norm1]
        )
        moments = None
        for conv, norm in zip(layers[::3], layers[1::3]):
            guess = moments and self.predicted(conv, moments, x.shape[2:])
            x, *moments = self.normalized(norm, conv(x), guess)
            x = x.relu()
        x, outputs = nn.functional.max_pool2d(x, 3, 2, 1), []
        for i, name in enumerate(model.res_layers):
            for block in getattr(model, name):
                x, moments = self.block(block, x, moments)
            if i in model.out_indices:
                outputs.append(x)
        return outputs

    def block(self, block, x, moments):
        y, own = x, moments
        pairs = [('conv1', 'norm1'), ('conv2', 'norm2'), ('conv3', 'norm3')]
        pairs = [p for p in pairs if hasattr(block, p[0])]
        for i, (conv, norm) in enumerate(pairs):
            conv, norm = getattr(block, conv), getattr(block, norm)
            guess = self.predicted(conv, own, y.shape[2:])
            y, *own = self.normalized(norm, conv(y), guess)
            y = y.relu() if i < len(pairs) - 1 else y
        other = moments
        if block.downsample is not None:
            *pool, conv, norm = block.downsample
            guess = self.predicted(conv, moments, x.shape[2:])
            for module in (*pool, conv):
                x = module(x)
            x, *other = self.normalized(norm, x, guess)
        return (x + y).relu(), [a + b for a, b in zip(own, other)]

    def normalized(self, norm, x, guess):
        running = (None, None)
        if not norm.training:
            running = norm.running_mean, norm.running_var
        return kalman_norm_reference(
            *(x, norm.weight, norm.bias, *running),
            predicted=guess,
            p=norm.p,
        )

    def predicted(self, conv, moments, extent):
        """By expectations; the border is as the rest."""
        mean, var = rectified_moments(*moments)
        return (
            torch.einsum('oihw,i->o', conv.weight, mean),
            torch.einsum('oihw,i->o', conv.weight.square(), var),
        )


class PlainSampled(Plain):
    """Predictions by noise, which is drawn where a norm is reached."""

    def normalized(self, norm, x, guess):
        if guess is not None:
            guess = guess() if norm.training else None
        return super().normalized(norm, x, guess)

    def predicted(self, conv, moments, extent):
        mean, var = (t[:, None, None] for t in moments)

        def predict():
            z = torch.randn(1, len(mean), *extent, dtype=torch.double)
            y = conv((z * var.sqrt() + mean).clamp(min=0))
            return y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)

        return predict


PLAIN = dict(closed_form=Plain, sample=PlainSampled)
VARIANTS = {
    'basic': dict(depth=18),
    'bottleneck': dict(depth=50),
    'caffe, frozen': dict(depth=50, style='caffe', frozen_stages=2),
    'deep': dict(depth=50, deep_stem=True, avg_down=True),
    'dilated': dict(depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
}


def results(model: nn.Module, twin: type | None = None) -> dict[str, Tensor]:
    """Outputs and gradients of a model, or of its twin in plain operations."""
    torch.manual_seed(7)
    if twin is None:
        return outputs_and_grads(model, image())
    model.forward = twin(model)
    return outputs_and_grads(model, image())


@pytest.mark.parametrize('prediction', PLAIN)
@pytest.mark.parametrize(
    'scope, variant', [*(('mmdet', v) for v in VARIANTS), ('mmseg', 'deep')]
)
def test_is_the_plain_network(scope, variant, prediction):
    model = kn_resnet(scope, prediction=prediction, **VARIANTS[variant])
    want = results(copy.deepcopy(model), PLAIN[prediction])
    assert_close(results(model), want, 1e-8)


@pytest.mark.parametrize('prediction', PLAIN)
@pytest.mark.parametrize('depth', [18, 50])
def test_checkpointing_changes_nothing(depth, prediction):
    """Noise too is drawn as before."""
    options = dict(depth=depth, prediction=prediction)
    want = results(kn_resnet(**options))
    assert_close(results(kn_resnet(with_cp=True, **options)), want, 1e-10)


@pytest.mark.parametrize('scope', SCOPES)
def test_evaluation_is_batch_norm(scope):
    """With weights that are interchangeable, torchvision's names included."""
    model = kn_resnet(scope)
    model.eval()
    other = build(scope, dict(TINY, type='ResNet', norm_cfg=dict(type='BN')))
    other.double().load_state_dict(model.state_dict(), strict=True)
    other.eval()
    for a, b in zip(model(image()), other(image())):
        assert relative_error(a, b) < 1e-12


def test_no_layer_is_left_without_a_prediction():
    model = kn_resnet(depth=50, deep_stem=True)
    norms = find_norms(model)
    assert not caveats(norms)
    assert [n for n, m in norms.items() if m.is_first] == ['stem.1']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model(image())
    plain = build('mmdet', dict(TINY, type='ResNet', norm_cfg=dict(type='KN')))
    (line,) = caveats(find_norms(plain))
    assert '20 layers (bn1' in line and 'KNResNet' in line


def test_default_norm_and_frozen_stages():
    model = build('mmdet', dict(type='KNResNet', frozen_stages=2, **TINY))
    model.train()
    before = copy.deepcopy(model.state_dict())
    sum(y.mean() for y in model(image().float())).backward()
    for name, value in model.state_dict().items():
        if 'running' in name:
            is_frozen = name.startswith(('bn1', 'layer1', 'layer2'))
            assert torch.equal(value, before[name]) is is_frozen, name
    for name, p in model.named_parameters():
        assert p.requires_grad is (p.grad is not None), name


def test_copies_and_averages():
    model = kn_resnet()
    average = ExponentialMovingAverage(
        model, momentum=0.5, update_buffers=True
    )
    average.update_parameters(model)
    model(image())
    average.update_parameters(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for a, b in zip(plain_run(other), plain_run(model)):
            assert torch.equal(a, b)
    average.module.eval()
    assert all(y.isfinite().all() for y in average.module(image()))


def plain_run(model: nn.Module) -> list[Tensor]:
    torch.manual_seed(1)
    return model(image())


def test_batch_average_takes_the_mixed_moments():
    model = kn_resnet(prediction='closed_form')
    twin = copy.deepcopy(model)
    batches = [image(), 2 * image() + 1]
    update_batch_average(model, batches, progress=False)
    sums = {}
    for x in batches:
        for norm in find_norms(twin).values():
            norm.momentum = 1.0
        twin(x)
        for name, norm in find_norms(twin).items():
            sums[name] = sums.get(name, 0) + norm.running_var / 2
    for name, norm in find_norms(model).items():
        assert relative_error(norm.running_var, sums[name]) < 1e-10, name


def test_folds_into_the_convolutions():
    model = kn_resnet(depth=50)
    model.eval()
    want = model(image())
    model, report = fold_with_report(model)
    assert not find_norms(model) and len(report.layers) == 53
    for a, b in zip(model(image()), want):
        assert relative_error(a, b) < 1e-10


@pytest.mark.parametrize(
    'options, match',
    [
        (dict(norm_cfg=dict(type='SN')), "SN2d: set norm_cfg=dict.*'KN'"),
        (dict(prediction='guess'), 'closed_form'),
        (
            dict(
                depth=50,
                plugins=[
                    dict(
                        cfg=dict(type='ContextBlock', ratio=0.25),
                        position='after_conv2',
                    )
                ],
            ),
            'leave plugins out',
        ),
        (
            dict(prediction='closed_form', conv_cfg=dict(type='ConvWS')),
            "prediction='sample'",
        ),
    ],
)
def test_errors_name_the_fix(options, match):
    with pytest.raises(ValueError, match=match):
        kn_resnet(**options)


def test_other_convolutions_predict_by_samples():
    model = kn_resnet(conv_cfg=dict(type='ConvWS'))
    want = results(copy.deepcopy(model), PlainSampled)
    assert_close(results(model), want, 1e-8)


@pytest.mark.parametrize('dtype', cpu_autocast_dtypes())
def test_autocast(dtype):
    model = kn_resnet().float()
    with torch.autocast('cpu', dtype):
        outputs = model(image().float())
        sum(y.float().square().mean() for y in outputs).backward()
    assert all(y.isfinite().all() for y in outputs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def step_in_parallel(rank: int) -> list[Tensor]:
    """Synchronized, checkpointed, with noise of each process's own."""
    model = kn_resnet(norm_cfg=dict(type='SyncKN', p=P), with_cp=True)
    model = MMDistributedDataParallel(model, broadcast_buffers=False)
    torch.manual_seed(rank)
    x = image(3)[(slice(0, 2), slice(2, 3))[rank]].requires_grad_()
    sum(y.square().mean() for y in model(x)).backward()
    running = [n.running_var for n in find_norms(model.module).values()]
    return [*running, *(p.grad for p in model.parameters())]


def test_data_parallel():
    first, second = run_processes(step_in_parallel)
    for a, b in zip(first, second):
        assert a.isfinite().all() and torch.equal(a, b)
