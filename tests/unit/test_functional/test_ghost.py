# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ghost BN: parts of a batch, and what evaluation takes."""

import pytest
import torch
from torch import nn

from sn_mm.layers import GhostBN
from tests.utils import randomize, relative_error


@pytest.mark.parametrize('samples', [3, 4, 7])
def test_parts_are_normalized_apart(samples):
    """The last one may be smaller."""
    layer = randomize(GhostBN(4, virtual_batch_size=3))
    part = nn.BatchNorm2d(4)
    part.load_state_dict(layer.state_dict())
    x = torch.randn(samples, 4, 5, 5) * torch.arange(1, samples + 1).view(
        -1, 1, 1, 1
    )
    want = torch.cat([part(t) for t in x.split(3)])
    assert relative_error(layer(x), want) < 1e-5


def test_running_moments_are_averages_over_parts():
    layer = GhostBN(4, momentum=1.0, virtual_batch_size=2)
    x = torch.randn(6, 4, 5)
    layer(x)
    parts = x.view(3, 2, 4, 5).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.running_mean, parts.mean(2).mean(0))
    torch.testing.assert_close(
        layer.running_var, parts.var(2, unbiased=False).mean(0)
    )


def test_evaluation_is_bns():
    old = randomize(nn.BatchNorm2d(4)).eval()
    layer = GhostBN(4).eval()
    layer.load_state_dict(old.state_dict())
    x = torch.randn(2, 4, 5, 5)
    assert relative_error(layer(x), old(x)) < 1e-5
