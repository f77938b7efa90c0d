# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Other modules in the places of some."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from sn_mm.surgery.replace import has_hooks, replace_modules


def test_names_stay_and_what_is_shared_stays_shared():
    old, new = nn.ReLU(), nn.Tanh()
    model = nn.Sequential(nn.Sequential(old), nn.Linear(2, 2), old)
    assert replace_modules(model, {old: new}) is model
    assert model[0][0] is new and model[2] is new
    assert replace_modules(old, {old: new}) is new
    assert replace_modules(model, {}) is model


def test_a_convolution_that_fused_its_batch_norm_asks_again():
    block = ConvModule(3, 4, 1, norm_cfg=dict(type='BN'))
    block.turn_on_efficient_conv_bn_eval(True)
    assert block.efficient_conv_bn_eval_forward is not None
    norm = nn.InstanceNorm2d(4)
    replace_modules(block, {block.norm: norm})
    assert block.efficient_conv_bn_eval_forward is None
    x = torch.randn(2, 3, 5, 5)
    block.eval()
    torch.testing.assert_close(block(x), norm(block.conv(x)).relu())


@pytest.mark.parametrize(
    'register',
    [
        lambda m: m.register_forward_hook(print),
        lambda m: m.register_forward_pre_hook(print),
        lambda m: m.register_full_backward_hook(print),
    ],
)
def test_hooks(register):
    module = nn.ReLU()
    assert not has_hooks(module)
    handle = register(module)
    assert has_hooks(module)
    handle.remove()
    assert not any(m for m in module._forward_hooks)
