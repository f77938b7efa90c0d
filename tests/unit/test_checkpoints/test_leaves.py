# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The layers that a state dict is made of."""

from __future__ import annotations

import torch
from torch import nn

from sn_mm import SN
from sn_mm.checkpoints.leaves import (
    Leaf,
    common_names,
    leaves_of_file,
    leaves_of_model,
    without_ones,
    without_wrappers,
)
from sn_mm.layers import IBN


def test_batch_norms_are_recognised_by_their_tensors():
    plain = nn.BatchNorm2d(4).state_dict()
    leaves = leaves_of_file(
        {
            **{f'a.bn.{k}': v for k, v in plain.items()},
            'b.running_mean': torch.zeros(3),
            'b.running_var': torch.ones(3),
            'half.running_mean': torch.zeros(3),
            'half.running_var': torch.ones(3),
            'half.weight': torch.ones(3),
            **{f'sn.{k}': v for k, v in SN(4).state_dict().items()},
            'conv.weight': torch.zeros(4, 3, 1, 1),
        }
    )
    assert {n: leaf.channels for n, leaf in leaves.items()} == {
        'a.bn': 4,
        'b': 3,
        'half': None,
        'sn': None,
        'conv': None,
    }


def test_norms_of_a_model_are_leaves_with_all_their_parts():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), IBN(4), SN(4), nn.LayerNorm(4))
    leaves = leaves_of_model(model)
    assert list(leaves) == ['0', '1', '2', '3']
    assert [leaf.channels for leaf in leaves.values()] == [None, 4, 4, None]
    assert leaves['1'].module is model[1]
    assert {'IN.weight', 'BN.running_var'} <= set(leaves['1'].tensors)
    # a model that is a norm
    assert list(leaves_of_model(SN(4))) == ['']


def test_signatures_say_what_can_fill_what():
    def leaf(**tensors):
        return Leaf('x', {k: torch.zeros(v) for k, v in tensors.items()})

    linear = leaf(weight=(4, 3), bias=(4,))
    point = leaf(weight=(4, 3, 1, 1))
    assert linear.signature == point.signature == ('weight', 4, 3)
    assert leaf(weight=(4, 3, 3, 3)).signature == ('weight', 4, 3, 3, 3)
    scale, affine = leaf(scale=(4,)), leaf(weight=(4,), bias=(4,))
    assert scale.signature != affine.signature
    assert Leaf('n', {}, channels=4).signature == ('norm', 4)
    pair = leaf(a=(2,), b=(1,))
    assert pair.signature == ('other', (1,), (2,)) and pair.single is None
    indexed = Leaf(
        'x', dict(table=torch.zeros(3, 2), index=torch.zeros(9).long())
    )
    assert indexed.single is indexed.tensors['table']
    assert without_ones((4, 3, 1, 1)) == (4, 3)
    assert without_ones((4, 1, 3, 3)) == (4, 1, 3, 3)


def test_norms_have_one_name_in_every_library():
    names = ['l.0.sn1', 'l.0.norm2', 'l.0.gn', 'l.0.conv1', 'norm_layer']
    found = common_names({n: Leaf(n) for n in names})
    assert list(found.values()) == [
        'l.0.bn1',
        'l.0.bn2',
        'l.0.bn',
        'l.0.conv1',
        'bn',
    ]
    # two that would be called the same keep their names
    both = common_names({n: Leaf(n) for n in ('a.sn1', 'a.norm1')})
    assert both == {'a.sn1': 'a.sn1', 'a.norm1': 'a.norm1'}


def test_wrappers_leave_the_names():
    state = {
        'module._orig_mod.a.weight': 1,
        '_fsdp_wrapped_module.b._checkpoint_wrapped_module.weight': 2,
    }
    assert without_wrappers(state) == {'a.weight': 1, 'b.weight': 2}
    inner = {'module.a': 1, 'b.module.c': 2}
    assert without_wrappers(inner, keep_module=True) == inner
    # rather the old names than two of one
    same = {'module.a': 1, 'a': 2}
    assert without_wrappers(same) == same
