# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A map of channels inside of a convolution, one convolution at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sn_mm import SN, harden
from sn_mm.surgery.channel_affine import ChannelAffine
from sn_mm.surgery.fold_conv import affine_of, fold_into, foldable
from tests.utils import randomize, relative_error

CONVS = {
    'conv1d': (nn.Conv1d(3, 6, 3), (2, 3, 9)),
    'conv2d': (nn.Conv2d(3, 6, 3, stride=2), (2, 3, 9, 8)),
    'groups': (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    'conv3d': (nn.Conv3d(3, 6, 2), (2, 3, 4, 4, 4)),
    'without bias': (nn.Conv2d(3, 6, 3, bias=False), (2, 3, 6, 6)),
    'transposed': (nn.ConvTranspose2d(3, 6, 2, 2), (2, 3, 5, 4)),
    'transposed groups': (
        nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False),
        (2, 4, 5, 4),
    ),
    'linear': (nn.Linear(5, 6), (3, 5)),
}


def constant_map(affine=True):
    norm = harden(randomize(SN(6, statistics=('bn',), affine=affine)))
    return ChannelAffine.from_norm(norm.eval())


@pytest.mark.parametrize('affine', [True, False])
def test_slope_and_offset(affine):
    norm = constant_map(affine)
    scale, shift = affine_of(norm)
    assert scale.dtype == torch.float64
    x = torch.randn(2, 6, 3, 3)
    want = x.double() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
    assert relative_error(norm(x), want) < 1e-6


@pytest.mark.parametrize('kind', CONVS)
def test_both_in_one(kind):
    conv, shape = CONVS[kind]
    conv, norm = copy.deepcopy(conv).double(), constant_map().double()
    x = torch.randn(shape).double()
    with torch.no_grad():
        y = conv(x)
        want = norm(y)
        had_bias = conv.bias is not None
        grown = fold_into(conv, norm)
        assert relative_error(conv(x), want) < 1e-12
    assert grown == (0 if had_bias else 6)


def test_a_frozen_convolution_gets_a_frozen_bias():
    conv = nn.Conv2d(3, 6, 1, bias=False).requires_grad_(False).half()
    fold_into(conv, constant_map())
    assert not conv.bias.requires_grad and conv.bias.dtype == torch.half


def test_what_nothing_can_be_folded_into():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).relu()

    def conv():
        return nn.Conv2d(3, 3, 1)

    plain = conv()
    assert foldable(plain, [plain, conv()]) == ''
    assert foldable(Own(3, 3, 1), []) == 'Own is no plain convolution'
    hooked = conv()
    hooked.register_forward_hook(lambda *args: None)
    assert 'hooks' in foldable(hooked, [])
    param = nn.utils.parametrizations.spectral_norm(conv())
    assert 'is parametrized' in foldable(param, [])
    tied = conv()
    tied.weight = plain.weight
    assert 'shared' in foldable(plain, [plain, tied])
