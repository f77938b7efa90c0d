# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The loss term of PN's gammas, and its coefficients from forwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm import SN
from sn_mm.functional.population import gamma_decay_coefficient
from sn_mm.layers import PN
from sn_mm.recalibrate.gamma_decay import (
    gamma_decay,
    measured_zeta,
    population_layers,
)

pytestmark = pytest.mark.filterwarnings('ignore')


def model():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), PN(4), SN(4), PN(4))
    for seed, layer in enumerate((net[1], net[3])):
        gen = torch.Generator().manual_seed(seed)
        layer.weight.data.uniform_(0.5, 2, generator=gen)
    return net


def test_one_coefficient_for_all():
    net = model()
    assert list(population_layers(net)) == ['1', '3']
    loss = gamma_decay(nn.DataParallel(net), 0.1)
    squares = [net[i].weight.square().sum() for i in (1, 3)]
    torch.testing.assert_close(loss, 0.1 * sum(squares))
    loss.backward()
    torch.testing.assert_close(net[1].weight.grad, 0.2 * net[1].weight)
    assert net[2].weight.grad is None


def test_coefficients_by_layer_and_channel():
    net, zeta = model(), torch.tensor([1.0, 2, 3, 4])
    loss = gamma_decay(net, {'3': zeta})
    torch.testing.assert_close(loss, (zeta * net[3].weight.square()).sum())


def test_a_model_without_pn():
    with pytest.raises(ValueError, match='Sequential has no PN layer'):
        gamma_decay(nn.Sequential(SN(4)), 0.1)
    with measured_zeta(nn.Sequential(SN(4))) as found:
        pass
    assert found == {}


def test_coefficients_are_averages_over_calls():
    layer = model()[1]
    net = nn.Sequential(layer)
    batches = [torch.randn(4, 4, 5, 5) * k for k in (1, 2)]
    want = []
    with measured_zeta(net, 'softplus', 8) as found:
        for x in batches:
            with torch.no_grad():
                y = net(x)
            want.append(gamma_decay_coefficient(x, y, 8, 'softplus'))
        net(batches[0][:0])  # nothing to measure
        net(torch.full_like(batches[0], float('nan')))  # does not count
        assert found == {}
    torch.testing.assert_close(found['0'].double(), sum(want) / 2)
    assert not layer._forward_hooks
