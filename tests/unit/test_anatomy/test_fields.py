# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How operations widen receptive fields, after hand-made examples."""

from __future__ import annotations

import math

import pytest
import torch

from sn_mm.anatomy.fields import Field, image_field, output_field


def field(size, stride):
    return Field((size,) * 2, (stride,) * 2)


def of(operation, *args, before=None, output=None):
    before = before or field(5, 2)
    return output_field(operation, args, before, output)


def test_of_the_image():
    assert image_field(3) == Field((1, 1, 1), (1, 1, 1))


def test_windows():
    # two 3 x 3 convolutions of stride 2: 3, then 3 + 2 * 2
    first = image_field(2).window((3,), (2,))
    assert first == field(3, 2)
    assert first.window((3,), (2,)) == field(7, 4)
    # a dilation of 3 spreads the taps of the second
    assert first.window((3, 3), (1, 1), (3, 3)) == field(3 + 2 * 3 * 2, 2)
    # each axis on its own
    assert first.window((3, 1), (1, 2)) == Field((7, 3), (2, 4))
    assert first.window((3, 3, 3), (1, 1, 1)) is first


def test_where_paths_meet():
    assert Field((3, 9), (2, 2)).joined(Field((5, 7), (1, 2))) == Field(
        (5, 9), (2, 2)
    )
    flat = Field((4,), (1,))
    assert flat.joined(field(3, 1)) == flat


def test_convolutions():
    weight = torch.empty(4, 4, 3, 3)
    args = (None, weight, None, (2, 2), (1, 1), (1, 1), False)
    assert of('convolution', *args) == field(5 + 2 * 2, 4)
    # a transposed one of stride 2 and 4 taps has 2 of them at a position
    weight = torch.empty(4, 4, 4, 4)
    args = (None, weight, None, (2, 2), (1, 1), (1, 1), True)
    assert of('convolution', *args) == field(5 + 2, 1)


def test_pools():
    assert of('avg_pool2d', None, (2, 2)) == field(5 + 2, 4)
    assert of('avg_pool2d', None, (3, 3), (1, 1)) == field(5 + 4, 2)
    args = (None, (3, 3), (2, 2), (1, 1), (2, 2))
    assert of('max_pool2d_with_indices', *args) == field(5 + 2 * 2 * 2, 4)


@pytest.mark.parametrize('operation', ['bmm', '_adaptive_avg_pool2d'])
def test_what_sees_the_whole_map(operation):
    x, y = torch.empty(1, 4, 8, 8), torch.empty(1, 4, 1, 1)
    found = of(operation, x, output=y)
    assert found.size == (math.inf, math.inf) and found.stride == (2, 2)


def test_an_adaptive_pool_to_the_same_size_is_none():
    x = torch.empty(1, 4, 8, 8)
    assert of('_adaptive_avg_pool2d', x, output=x) == field(5, 2)


def test_reductions_over_positions_or_channels():
    x = torch.empty(1, 4, 8, 8)
    assert of('mean', x, [1], output=x) == field(5, 2)
    assert of('mean', x, [-1], output=x).size == (math.inf, math.inf)
    assert of('sum', x, output=x).size == (math.inf, math.inf)
    assert of('sum', torch.empty(3, 4), 0, output=x) == field(5, 2)


def test_resizing():
    x, y = torch.empty(1, 4, 8, 8), torch.empty(1, 4, 16, 8)
    found = of('upsample_bilinear2d', x, output=y)
    assert found == Field((5 + 2, 5), (1, 2))
    assert of('upsample_nearest2d', x, output=y).size == (5, 5)


def test_other_operations_change_nothing():
    assert of('relu', None) == field(5, 2)
