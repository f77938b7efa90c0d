# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A model and the random state as they were, whatever is done to them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from sn_mm.recalibrate.restored import restored, restored_random_state


def test_attributes_that_forward_changes_are_put_back():
    class Counting(nn.Linear):
        history: list

        def forward(self, x):
            self.history.append(len(x))
            self.seen = x
            self.calls += 1
            self.register_buffer('extra', x)
            return super().forward(x)

    layer = Counting(2, 2)
    layer.history, layer.calls = [1], 0
    with restored(layer):
        layer(torch.randn(3, 2))
    assert layer.history == [1] and layer.calls == 0
    assert not hasattr(layer, 'seen') and not hasattr(layer, 'extra')


def test_values_stay_in_the_very_tensors():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    tensors = [*model.parameters(), *model.buffers()]
    before = [t.clone() for t in tensors]
    with pytest.raises(RuntimeError, match='stop'):
        with restored(model):
            model.eval()
            model[1].running_mean.fill_(7)
            model[0].weight.requires_grad_(False)
            with torch.no_grad():
                model[0].weight.add_(1)
            model[0].weight = nn.Parameter(torch.ones(2, 2))
            model.add_module('more', nn.ReLU())
            raise RuntimeError('stop')
    after = [*model.parameters(), *model.buffers()]
    assert all(a is b for a, b in zip(after, tensors))
    assert all(torch.equal(a, b) for a, b in zip(after, before))
    assert model.training and len(model) == 2
    assert model[0].weight.requires_grad


def test_generators_go_on_where_they_were():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    want = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    with restored_random_state():
        assert draw() == want
    assert draw() == want
