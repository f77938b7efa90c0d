# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from sn_mm import SN, SSN
from sn_mm.analysis.sparse_advice import frozen_radius


def model(radius=0.0):
    layers = nn.Sequential(SSN(4), SN(4), SSN(4))
    for layer in layers[::2]:
        layer.radius.fill_(radius)
    return layers


def test_layers_whose_radius_nothing_moves():
    hooks = [dict(type='EMAHook')]
    (line,) = frozen_radius(model(), dict(custom_hooks=hooks))
    assert line.startswith('nothing moves the radius of 2 SSN layers')
    assert "dict(type='RadiusHook')" in line


@pytest.mark.parametrize('place', ['custom_hooks', 'default_hooks'])
def test_the_radius_hook_moves_it(place):
    hook = dict(type='RadiusHook')
    hooks = [hook] if place == 'custom_hooks' else dict(a=None, b=hook)
    assert frozen_radius(model(), {place: hooks}) == []


def test_nothing_is_said_of_hooks_of_a_users_own():
    @HOOKS.register_module(name='TestSparseAdviceHook')
    class Own(Hook):
        pass

    for kind in ('TestSparseAdviceHook', Own, 'NobodyKnowsHook'):
        assert (
            frozen_radius(model(), dict(custom_hooks=[dict(type=kind)])) == []
        )


def test_layers_without_anything_left_to_choose():
    assert frozen_radius(model(radius=1.0), {}) == []
    assert frozen_radius(nn.Sequential(SN(4)), {}) == []
