# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A constant map of each channel."""

from __future__ import annotations

import pytest
import torch

from sn_mm import SN, harden
from sn_mm.surgery.channel_affine import ChannelAffine
from tests.utils import randomize


@pytest.mark.parametrize('affine', [True, False])
def test_what_a_norm_does_in_evaluation(affine):
    norm = SN(4, statistics=('bn',), affine=affine)
    norm = harden(randomize(norm)).eval()
    layer = ChannelAffine.from_norm(norm)
    x = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(layer(x), norm(x))
    torch.testing.assert_close(layer.train()(x), norm(x))
    assert layer.extra_repr() == '4, eps=1e-05'
    assert {n for n, _ in layer.named_buffers()} == {'mean', 'var'}
