# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch Group Normalization: special cases, and folding."""

import torch
from torch import nn

import sn_mm
from sn_mm.layers import BGN
from tests.utils import randomize, relative_error


def test_c_groups_are_bn():
    torch.manual_seed(0)
    old = randomize(nn.BatchNorm2d(6))
    layer = BGN(6, num_groups=6)
    layer.load_state_dict(old.state_dict())
    x = torch.randn(4, 6, 5, 5) + 2
    assert relative_error(layer(x), old(x)) < 1e-5
    assert relative_error(layer.running_mean, old.running_mean) < 1e-5
    layer.load_state_dict(old.state_dict())
    assert relative_error(layer.eval()(x), old.eval()(x)) < 1e-5


def test_one_sample_is_gn():
    x = torch.randn(1, 6, 5, 5)
    want = nn.functional.group_norm(x, 3)
    assert relative_error(BGN(6, num_groups=3)(x), want) < 1e-5


def test_it_folds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BGN(8, num_groups=2)).eval()
    randomize(model[1])
    x = torch.randn(2, 3, 9, 9)
    want = model(x)
    folded = sn_mm.fold(model, size=64)
    assert isinstance(folded[1], nn.Identity)
    assert relative_error(folded(x), want) < 1e-5
