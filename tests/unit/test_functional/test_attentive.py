# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Attentive Normalization: numbers of the public layer, and starts."""

import pytest
import torch
from torch import nn

import sn_mm
from sn_mm.layers import AN
from tests.family import fixture_of, public_run
from tests.utils import randomize


def test_numbers_of_the_public_layer():
    layer = AN(16, norm='gn', num_groups=4, k=5).double()
    public_run(layer, fixture_of('attn_gn'))


def test_pairs_start_about_1_and_0():
    torch.manual_seed(0)
    layer = AN(256)
    assert layer.weight.shape == (10, 256)
    for t, mean in ((layer.weight, 1), (layer.bias, 0)):
        assert abs(t.mean().item() - mean) < 0.01
        assert abs(t.std().item() - 0.1) < 0.01


def test_the_pair_of_a_bn_is_that_of_all():
    old = randomize(nn.BatchNorm2d(8))
    made = sn_mm.convert_norm(nn.Sequential(old), dict(type='AN', k=3))[0]
    assert torch.equal(made.weight, old.weight.expand(3, 8))
    assert torch.equal(made.running_mean, old.running_mean)


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(norm='in'), 'unknown norm'),
        (dict(k=0), 'k must'),
        (dict(norm='gn', num_groups=3), 'num_groups=3 does not divide'),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        AN(8, **options)
