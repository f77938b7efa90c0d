# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Passes that fold batch norms into convolutions must pass SN by."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import nn
from torch.optim.swa_utils import update_bn

from sn_mm import SN
from tests.builders import (
    BN_CFG,
    SN_CFG,
    randomize_norms,
    resnet,
)
from tests.norm_tester import FUSIONS
from tests.utils import randomize


@pytest.mark.parametrize('name', FUSIONS)
def test_the_passes_do_fuse_batch_norms(name):
    """Else it would be no wonder that they pass SN by."""
    norm = randomize(nn.BatchNorm2d(8))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU()).eval()
    fused = FUSIONS[name](model)
    calls = []
    for m in fused.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.register_forward_hook(lambda *args: calls.append(args))
    fused(torch.randn(2, 3, 9, 9))
    assert not calls


def test_a_backbone_survives_fuse_conv_bn():
    model = randomize_norms(resnet())
    model.eval()
    x = torch.randn(2, 3, 40, 56)
    for got, want in zip(fuse_conv_bn(copy.deepcopy(model))(x), model(x)):
        assert torch.equal(got, want)


def test_conv_module_with_efficient_conv_bn_eval():
    torch.manual_seed(0)
    modules = [
        ConvModule(3, 8, 3, norm_cfg=cfg, efficient_conv_bn_eval=True)
        for cfg in (SN_CFG, BN_CFG)
    ]
    assert modules[0].efficient_conv_bn_eval_forward is None
    assert modules[1].efficient_conv_bn_eval_forward is not None
    module = modules[0].eval()
    randomize(module.norm)
    x = torch.randn(2, 3, 9, 9)
    want = module.norm(module.conv(x)).relu()
    assert torch.equal(module(x), want)


def test_batch_norm_surgery_of_torch_passes_sn_by():
    model = nn.Sequential(randomize(SN(3)))
    before = copy.deepcopy(model.state_dict())
    torch.func.replace_all_batch_norm_modules_(model)
    update_bn([torch.randn(2, 3, 4, 4)], model)
    assert model[0].momentum == 0.1 and model[0].track_running_stats
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
