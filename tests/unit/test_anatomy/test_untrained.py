# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from sn_mm import SN
from sn_mm.anatomy.untrained import moved_by, untrained_for_good
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


def test_what_no_optimizer_moves():
    model = nn.Sequential(SN(4), SN(4), frozen(SN(4), moved=True))
    first, second = (list(m.parameters()) for m in model[:2])
    optimizers = [
        torch.optim.Adam([dict(params=p, lr=lr)])
        for p, lr in ((first, 0.1), (second, 0.0))
    ]
    assert moved_by(optimizers[0], model) == set(first)
    assert moved_by(optimizers[1], model) == set()
    wrapper = OptimWrapperDict(
        **{str(i): OptimWrapper(o) for i, o in enumerate(optimizers)}
    )
    moved = moved_by(wrapper, model)
    assert moved == set(first)
    assert untrained_for_good(model) == []
    assert untrained_for_good(model, moved) == ['1']
    # of FSDP and DeepSpeed, which put parameters together
    flat = torch.optim.SGD([nn.Parameter(torch.zeros(99))], 0.1)
    assert moved_by(flat, model) is None
