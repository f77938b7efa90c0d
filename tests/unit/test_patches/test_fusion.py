# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Fusion by attribute: refused for our layers, as it was for others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion

from sn_mm import SN, convert_norm


def test_sn_is_refused_and_bn_is_fused():
    conv = nn.Conv2d(3, 8, 3).eval()
    with pytest.raises(TypeError, match=r'sn_mm\.fold'):
        fusion.fuse_conv_bn_eval(conv, SN(8).eval())
    norm = nn.BatchNorm2d(8).eval()
    x = torch.randn(1, 3, 6, 6)
    fused = fusion.fuse_conv_bn_eval(conv, norm)
    assert torch.allclose(fused(x), norm(conv(x)), atol=1e-5)


class Deployable(nn.Sequential):
    def switch_to_deploy(self):
        raise NotImplementedError


def test_conversion_warns_of_switch_to_deploy():
    block = Deployable(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.warns(UserWarning, match='switch_to_deploy'):
        convert_norm(nn.Sequential(block), 'SN')
