# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Half precision: dtype in is dtype out, statistics are float32."""

import mmengine.runner.amp as mmengine_amp
import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.optim import AmpOptimWrapper
from torch import nn

from sn_mm import SN
from tests.builders import (
    build,
    randomize_norms,
    resnet,
    retinanet_config,
    seg_inputs,
    segmentor_config,
    switch_norms,
)

HALVES = pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16], ids=['float16', 'bfloat16']
)


@HALVES
def test_parameters_and_statistics_stay_float32(dtype):
    layer = SN(8).train()
    y = layer(torch.randn(2, 8, 6, 6).to(dtype))
    y.sum().backward()
    for name, p in layer.named_parameters():
        assert p.dtype == p.grad.dtype == torch.float32, name
    for name in ('running_mean', 'running_var'):
        assert getattr(layer, name).dtype == torch.float32
    # finer than the half dtype resolves: averaged in float32
    assert (layer.running_var.to(dtype).float() != layer.running_var).any()


def test_sums_do_not_overflow_in_float16():
    layer = SN(4).train()
    x = (torch.randn(2, 4, 64, 64) * 20 + 400).half()  # x * x > 65504
    want = layer(x.float())
    x.requires_grad_()
    y = layer(x)
    y.backward(torch.full_like(y, 32.0))  # as a loss scale makes it
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    torch.testing.assert_close(y.float(), want, rtol=2e-3, atol=2e-3)
    assert (layer.bias.grad == 32.0 * 2 * 64 * 64).all()
    assert float(layer.bias.grad[0]) > torch.finfo(torch.float16).max


def record_dtypes(model):
    """(dtype in, dtype out) of every call of an SN layer."""
    seen = []
    for layer in switch_norms(model).values():
        layer.register_forward_hook(
            lambda m, args, y: seen.append((args[0].dtype, y.dtype))
        )
    return seen


@pytest.mark.parametrize(
    'autocast',
    [
        lambda: torch.autocast('cpu', torch.bfloat16),
        lambda: mmengine_amp.autocast(dtype=torch.bfloat16, device_type='cpu'),
    ],
    ids=['torch', 'mmengine'],
)
def test_a_backbone_under_autocast(autocast):
    model = randomize_norms(resnet())
    model.train()
    x = torch.randn(2, 3, 64, 64)
    want = model(x)
    seen = record_dtypes(model)
    with autocast():
        got = model(x)
    assert len(seen) == len(switch_norms(model))
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}
    sum(y.float().square().mean() for y in got).backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
    for name, b in model.named_buffers():
        assert b.dtype != torch.bfloat16, name
    for y, y_want in zip(got, want):
        error = (y.float() - y_want).norm() / y_want.norm()
        assert error < 0.03


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_a_model_trains_under_autocast(kind):
    if kind == 'detector':
        # Faster R-CNN trains through mmcv's nms, float32 only on a CPU
        model = build('mmdet', retinanet_config(frozen_stages=-1).model)
        # 256 pixels, so that no level is a single position: there oneDNN
        # leaves most of a 3x3 kernel's bfloat16 gradient unwritten
        data = demo_mm_inputs(
            2, (3, 256, 256), num_items=[2, 0], num_classes=3
        )
    else:
        model = build('mmseg', segmentor_config('pspnet').model)
        data = seg_inputs(2)
    model.train()
    seen = record_dtypes(model)
    data = model.data_preprocessor(data, training=True)
    with torch.autocast('cpu', torch.bfloat16):
        loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert (torch.bfloat16, torch.bfloat16) in seen
    assert all(before == after for before, after in seen)
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
        assert p.grad.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_amp_optim_wrapper(dtype):
    """mmengine's wrapper, with its loss scale; it refuses to run on a CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), SN(8), nn.ReLU(), nn.Conv2d(8, 1, 3)
    ).cuda()
    wrapper = AmpOptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), 0.05), dtype=dtype
    )
    x = torch.randn(4, 3, 16, 16).cuda()
    seen, losses = record_dtypes(model), []
    for _ in range(20):
        with wrapper.optim_context(model):
            loss = (model(x) - 1).square().mean()
        wrapper.update_params(loss)
        losses.append(float(loss))
    assert set(seen) == {(getattr(torch, dtype),) * 2}
    assert losses[-1] < losses[0] / 2
