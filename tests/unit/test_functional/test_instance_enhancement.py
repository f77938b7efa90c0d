# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Instance Enhancement BN: numbers of the public layer, and of BN."""

import torch
from torch import nn

import sn_mm
from sn_mm.layers import IEBN
from tests.family import fixture_of, public_run
from tests.utils import randomize, relative_error


def test_numbers_of_the_public_layer():
    public_run(IEBN(6).double(), fixture_of('iebn'))


def test_a_new_layer_is_bn_with_a_smaller_scale():
    old = randomize(nn.BatchNorm2d(4))
    nn.init.zeros_(old.bias)
    x = torch.randn(3, 4, 5, 5)
    want = old(x) * torch.sigmoid(torch.tensor(-1.0))
    made = sn_mm.convert_norm(nn.Sequential(old), 'IEBN')
    assert type(made[0]) is IEBN
    assert relative_error(made(x), want) < 1e-5


def test_a_frozen_batch_norm_stays():
    """It cannot compute what that did."""
    old = nn.BatchNorm2d(4)
    old.requires_grad_(False)
    assert type(sn_mm.convert_norm(nn.Sequential(old), 'IEBN')[0]) is (
        nn.BatchNorm2d
    )
