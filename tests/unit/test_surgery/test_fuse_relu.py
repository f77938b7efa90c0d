# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Norm and ReLU in the norm's sweeps: the same numbers, hooks and states."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

import sn_mm
from sn_mm.surgery.fuse_relu import PassingReLU
from tests.utils import relative_error


def pair(channels=8, **kwargs):
    torch.manual_seed(0)
    norm = dict(type='SN', num_groups=4)
    made = ConvModule(3, channels, 3, norm_cfg={**norm, **kwargs})
    with torch.no_grad():
        for _, p in made.norm.named_parameters():
            p.copy_(torch.randn(p.shape))
    return made


def run(module, x, **kwargs):
    x = x.clone().requires_grad_()
    y = module(x, **kwargs)
    params = list(module.parameters())
    dy = torch.linspace(-1, 1, y.numel()).view_as(y)
    return [y, *torch.autograd.grad(y, (x, *params), dy, allow_unused=True)]


def assert_equal(module, x, **kwargs):
    fused = sn_mm.fuse_relu(copy.deepcopy(module))
    assert type(fused.activate) is PassingReLU
    for a, b in zip(run(fused, x, **kwargs), run(module, x, **kwargs)):
        if a is None or b is None:
            assert a is b
        else:
            assert relative_error(a, b) < 2e-5


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('size', [9, 40])
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(statistics=('in', 'gn'), unbiased=True),
        dict(type='SSN'),
        dict(ratio_groups=2),
    ],
)
def test_same_outputs_and_gradients(options, size, training):
    assert_equal(pair(**options).train(training), torch.randn(3, 3, size, 7))


@pytest.mark.parametrize(
    'kwargs', [dict(activate=False), dict(norm=False)], ids=str
)
def test_calls_that_leave_one_out(kwargs):
    assert_equal(pair(), torch.randn(2, 3, 9, 7), **kwargs)
    fused = sn_mm.fuse_relu(pair())
    x = torch.randn(2, 3, 9, 7)
    fused(x, **kwargs)
    assert (fused(x) >= 0).all()


def test_hard_batch_norm_in_evaluation():
    module = pair(statistics=('bn',)).eval()
    module.norm.harden_()
    assert_equal(module, torch.randn(2, 3, 9, 7))


def test_hooks_on_the_relu_and_states_stay():
    module, seen = pair(), []
    module.activate.register_forward_hook(lambda m, i, o: seen.append(o))
    before = module.state_dict()
    fused = sn_mm.fuse_relu(module)
    y = fused(torch.randn(2, 3, 9, 7))
    assert seen[0] is y and (y >= 0).all() and (y == 0).any()
    assert before.keys() == fused.state_dict().keys()
    assert isinstance(fused.activate, nn.ReLU)


def test_what_it_leaves_alone():
    others = [
        ConvModule(3, 8, 1, norm_cfg=dict(type='BN')),
        ConvModule(3, 8, 1, norm_cfg=dict(type='SN'), act_cfg=None),
        ConvModule(
            3, 8, 1, norm_cfg=dict(type='SN'), act_cfg=dict(type='SiLU')
        ),
        ConvModule(
            8,
            8,
            1,
            norm_cfg=dict(type='SN'),
            order=('norm', 'conv', 'act'),
        ),
        pair(),
    ]
    others[-1].norm.register_forward_hook(lambda m, i, o: None)
    x = [torch.randn(2, m.in_channels, 5, 5) for m in others]
    want = [m(t) for m, t in zip(others, x)]
    sn_mm.fuse_relu(nn.ModuleList(others))
    for module, t, y in zip(others, x, want):
        assert torch.equal(module(t), y)
        assert not isinstance(getattr(module, 'activate', None), PassingReLU)


def test_x_alone_is_kept():
    layer = sn_mm.fuse_relu(pair(channels=16))
    x = torch.randn(2, 16, 60, 60, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        layer.norm.rectifies = layer.activate.passes = True
        layer.activate(layer.norm(x))
    kept = {t.data_ptr(): t.numel() * t.element_size() for t in saved}
    assert sum(kept.values()) <= 1.02 * x.numel() * 4 + 2000


def test_converting_back_gives_the_relu_back():
    fused = sn_mm.fuse_relu(pair())
    fused(torch.randn(2, 3, 9, 7))
    sn_mm.convert_norm(fused, 'BN')
    y = fused(torch.randn(2, 3, 9, 7))
    assert (y >= 0).all() and (y == 0).any()
