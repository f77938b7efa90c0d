# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which modules are norms, and what each one is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from sn_mm import SN, SN1d, SN3d
from sn_mm.anatomy.norms import (
    dimension,
    find_norms,
    has_batch_statistics,
    has_ratios,
    is_plain_norm,
    looks_like_norm,
    num_channels,
    parts_of_norms,
    running_names,
)
from sn_mm.layers import BRN, IBN


class LayerNorm2d(nn.LayerNorm):
    """Over channels, as libraries have it."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ActNorm(nn.Module):
    """Called a norm, and does more."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.bias = nn.Parameter(torch.zeros(4))
        self.eps = 1e-5

    def forward(self, x):
        last = x.movedim(1, -1)
        y = nn.functional.layer_norm(last, (4,), self.weight, self.bias)
        return y.movedim(-1, 1).relu()


def model():
    norm = SN(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Sequential(IBN(4), norm))
    net.head = nn.ModuleList([nn.GroupNorm(2, 4), nn.LayerNorm(4)])
    return net


def test_each_norm_once_and_no_parts_of_norms():
    net = model()
    found = find_norms(net)
    # the shared layer has its first name, IBN's halves are no norms
    assert list(found) == ['1', '2.0', 'head.0', 'head.1']
    assert parts_of_norms(net) == {net[2][0].IN, net[2][0].BN}


def test_rules_choose_by_class_part_and_pattern():
    net = model()
    assert list(find_norms(net, include=nn.GroupNorm)) == ['head.0']
    assert list(find_norms(net, include='head')) == ['head.0', 'head.1']
    # by any of the places of a shared layer
    assert list(find_norms(net, include='2')) == ['1', '2.0']
    assert list(find_norms(net, exclude=['head', '*.0'])) == ['1']
    for argument in ('include', 'exclude'):
        with pytest.raises(ValueError, match=f"{argument}='neck' fits no"):
            find_norms(net, **{argument: 'neck'})


@pytest.mark.parametrize(
    'module, looks, plain',
    [
        (nn.BatchNorm2d(4), True, True),
        (nn.InstanceNorm1d(4), True, True),
        (nn.GroupNorm(2, 4), True, True),
        (SN(4), True, True),
        (IBN(4), True, True),
        (LayerNorm2d(4), True, True),
        (nn.LayerNorm(4), True, False),  # over the last axes
        (ActNorm(), True, False),
        (nn.LazyBatchNorm2d(), True, False),
        (spectral_norm(nn.Conv2d(4, 4, 1)), False, False),
        (nn.Conv2d(4, 4, 1), False, False),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else '',
)
def test_looks_like_one_and_is_one(module, looks, plain):
    assert looks_like_norm(module) is looks
    assert is_plain_norm(module) is plain


def test_what_norms_say():
    assert num_channels(nn.GroupNorm(2, 6)) == 6
    assert num_channels(SN(5)) == 5
    assert num_channels(LayerNorm2d(4)) == 4
    kinds = (nn.BatchNorm1d, nn.InstanceNorm2d, SN3d, SN1d, SN, nn.GroupNorm)
    assert [dimension(k) for k in kinds] == [1, 2, 3, 1, None, None]
    assert has_ratios(SN(4)) and not has_ratios(BRN(4))
    assert not has_ratios(nn.BatchNorm2d(4))


def test_statistics_of_the_batch():
    for module, has in (
        (nn.BatchNorm2d(4), True),
        (nn.BatchNorm2d(4, track_running_stats=False), True),
        (nn.InstanceNorm2d(4), False),
        (nn.GroupNorm(2, 4), False),
        (SN(4), True),
        (SN(4, statistics=('in', 'ln')), False),
    ):
        assert has_batch_statistics(module) is has, module


def test_names_of_running_statistics():
    assert running_names(nn.BatchNorm2d(4)) == ('running_mean', 'running_var')
    for module in (BRN(4), IBN(4)):
        names = running_names(module)
        assert set(names) <= set(module.state_dict())
        assert names != ('running_mean', 'running_var')
