# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Gamma decay is what BN's loss has and PN's has not.

Each channel is one batch of M values of a unit; logits of labels are the
unit's standardized value times gamma plus beta, which therefore minimize the
loss under PN.
"""

import pytest
import torch
from torch import nn

from sn_mm.functional.population import gamma_decay_coefficient
from sn_mm.layers import PN

GAMMA, BETA = 1.3, 0.4


def normal(*shape):
    return torch.randn(shape, dtype=torch.double)


def heavy(*shape):
    """Standardized, of excess kurtosis 1.92: a mixture of two widths."""
    wide = torch.rand(shape, dtype=torch.double) < 0.5
    return normal(*shape) * torch.where(wide, 1.8, 0.2) ** 0.5


def light(*shape):
    """Standardized, uniform: of excess kurtosis -1.2."""
    return (torch.rand(shape, dtype=torch.double) - 0.5) * 12**0.5


def losses(x):
    """Mean logistic losses of BN and of PN, over all batches."""
    labels = torch.sigmoid(GAMMA * x + BETA)
    found = []
    for norm in (nn.BatchNorm1d(x.shape[1], eps=1e-12), PN(x.shape[1], 1e-12)):
        norm.double().weight.data.fill_(GAMMA)
        norm.bias.data.fill_(BETA)
        y = norm(x)
        found.append(nn.functional.binary_cross_entropy_with_logits(y, labels))
    return found


@pytest.mark.filterwarnings('ignore:PN trains with the moments')
@pytest.mark.parametrize('values', [normal, heavy, light])
def test_bn_is_pn_with_gamma_decay(values):
    """M (BN's loss - PN's) tends to M zeta gamma^2 at PN's minimum."""
    torch.manual_seed(0)
    sample = values(1, 1, 2_000_000)
    y = GAMMA * sample + BETA
    zeta = gamma_decay_coefficient(sample, y, 1, 'logistic')
    errors = []
    for size in (8, 32, 128, 512):
        batches = max(4_000_000 // size, 20_000)
        of_bn, of_pn = losses(values(size, batches))
        got = size * float(of_bn - of_pn)
        errors.append(abs(got / float(zeta * GAMMA**2) - 1))
    assert errors[0] > 0.05  # the batch has to be large
    assert errors[-1] < 0.02, errors
    assert errors[-1] < errors[1] < errors[0], errors


@pytest.mark.filterwarnings('ignore:PN trains with the moments')
def test_bn_and_pn_agree_in_a_large_batch():
    torch.manual_seed(2)
    x = 3 * normal(400_000, 2) + 1
    pn = PN(2).double()
    pn.running_mean.fill_(1)
    pn.running_var.fill_(9)
    error = (pn(x) - nn.BatchNorm1d(2).double()(x)).abs().max()
    assert error < 0.03


def test_the_coefficient():
    """Of a ReLU behind a normal value: half of it passes."""
    torch.manual_seed(3)
    x = normal(2, 3, 400_000)
    zeta = gamma_decay_coefficient(x, x)
    assert zeta.shape == (3,)
    count = 2 * 400_000
    want = (2 / 8 * 0.5 + 0.5 / 2) / count
    torch.testing.assert_close(
        zeta, torch.full_like(zeta, want), rtol=0.02, atol=0
    )
    other = gamma_decay_coefficient(x, x, 10, lambda y: torch.ones_like(y))
    want = torch.full_like(zeta, (2 / 8 + 1 / 2) / 10)
    torch.testing.assert_close(other, want, rtol=0.02, atol=0)
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        gamma_decay_coefficient(x, x, activation='tanh')
