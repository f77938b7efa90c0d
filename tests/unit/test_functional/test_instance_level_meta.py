# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ILM-Norm: numbers of the public layer, and sizes of the embedding."""

import pytest

from sn_mm.layers import ILM
from tests.family import fixture_of, public_run


def test_numbers_of_the_public_layer():
    layer = ILM(32, num_groups=16, key_group_size=2).double()
    public_run(layer, fixture_of('ilm_gn'))


@pytest.mark.parametrize(
    'norm, channels, units',
    [
        ('gn', 256, 1),
        ('in', 256, 2),
        ('ln', 512, 2),
        ('gn', 512, 2),
        ('gn', 64, 2),
        ('in', 2048, 8),
    ],
)
def test_units_of_the_embedding(norm, channels, units):
    """One for 16 key groups; 2 where those are too few."""
    layer = ILM(channels, norm=norm)
    assert layer.embed_weight.shape == (units, channels // 16)


def test_channels_that_key_groups_do_not_divide():
    with pytest.raises(ValueError, match='key_group_size=16 does not divide'):
        ILM(24)
