# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch
from torch import nn

from sn_mm import SN
from sn_mm.anatomy.untrained import untrained_for_good
from sn_mm.layers import BRN


def frozen(layer, moved=False):
    layer.requires_grad_(False)
    if moved:
        with torch.no_grad():
            layer.mean_weight[0] += 1
            layer.var_weight[0] += 1
    return layer


def test_equal_ratios_that_nothing_can_change():
    model = nn.ModuleDict(
        dict(
            trains=SN(4),
            frozen=frozen(SN(4)),
            moved=frozen(SN(4), moved=True),
            one=frozen(SN(4, statistics=('bn',))),
            other=frozen(BRN(4)),
            groups=frozen(SN(4, ratio_groups=2)),
            meta=frozen(SN(4, device='meta')),
        )
    )
    assert untrained_for_good(model) == ['frozen', 'groups']


def test_one_moment_is_enough():
    layer = frozen(SN(4), moved=True)
    with torch.no_grad():
        layer.var_weight[0] -= 1
    assert untrained_for_good(nn.Sequential(layer)) == ['0']
