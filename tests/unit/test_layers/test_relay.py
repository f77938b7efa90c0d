# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
from torch import nn

from sn_mm.layers.relay import relaying


class Layer(nn.Module):
    relay = None

    def forward(self, x):
        if self.relay is not None:
            self.relay.left = (self.relay.given, x)
        return x


def test_a_relay_lasts_for_one_call():
    layer = Layer()
    with relaying(layer, 'given') as relay:
        assert layer.relay is relay and relay.left is None
        layer(3)
    assert relay.left == ('given', 3)
    assert layer.relay is None
    layer(4)
    assert relay.left == ('given', 3)


def test_calls_within_calls():
    layer = Layer()
    with relaying(layer, 1) as outer:
        with relaying(layer, 2) as inner:
            layer('a')
        layer('b')
    assert (inner.left, outer.left) == ((2, 'a'), (1, 'b'))


def test_it_ends_with_errors_too():
    layer = Layer()
    with pytest.raises(RuntimeError):
        with relaying(layer):
            raise RuntimeError
    assert layer.relay is None
