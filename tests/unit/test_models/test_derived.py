# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Classes of the toolboxes with a mixin in front."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmdet.registry import MODELS as MMDET
from mmseg.registry import MODELS as MMSEG
from torch import nn

from sn_mm.models.derived import derived, register


class Doubling:
    """Twice what the base gives."""

    def forward(self, x):
        return 2 * super().forward(x)


class Counting(nn.Linear):
    """Takes no other arguments than these two."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)


def test_one_class_for_one_pair():
    cls = derived(Doubling, Counting)
    assert cls is derived(Doubling, Counting)
    assert cls.__mro__[1:3] == (Doubling, Counting)
    assert (cls.__name__, cls.__doc__) == ('Counting', Doubling.__doc__)
    assert derived(Doubling, Counting, 'Own').__name__ == 'Own'


@pytest.mark.parametrize(
    'again', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_are_of_the_same_class(again):
    """No file has the class: pickle makes it once more."""
    layer = derived(Doubling, Counting)(3, 2)
    made = again(layer)
    assert type(made) is type(layer) and made is not layer
    x = torch.randn(4, 3)
    assert torch.equal(made(x), layer(x))
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(made(x), 2 * plain)


def test_registered_where_the_base_is():
    class Mixin:
        """Nothing of its own."""

    try:
        # no toolbox has this one, and one toolbox is not there
        register('TestDerivedA', Mixin, 'NoSuchNet', ('mmdet', 'mmnone'))
        register('TestDerivedB', Mixin, 'ResNet', ('mmdet', 'mmnone'))
        assert 'TestDerivedA' not in MMDET.module_dict
        cls = MMDET.module_dict['TestDerivedB']
        assert issubclass(cls, Mixin) and cls.__name__ == 'TestDerivedB'
        assert any(c.__module__.startswith('mmdet') for c in cls.__mro__)
        assert 'TestDerivedB' not in MMSEG.module_dict
    finally:
        MMDET.module_dict.pop('TestDerivedB', None)
