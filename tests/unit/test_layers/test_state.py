# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What state dicts say besides tensors, and layouts of public code."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch

from sn_mm import SN
from sn_mm.checkpoints import CheckpointError
from sn_mm.layers.state import (
    as_shaped,
    check_settings,
    take_public,
    write_settings,
)


def layer(used=(), **settings):
    return SimpleNamespace(
        settings=tuple(settings),
        uses_setting=lambda name: name not in used,
        **settings,
    )


def test_settings_go_into_the_metadata():
    destination = OrderedDict()
    destination._metadata = {'a.norm': {'version': 2}, 'b': {}}
    write_settings(layer(eps=1e-3, statistics=('in',)), destination, 'a.norm.')
    assert destination._metadata == {
        'a.norm': {'version': 2, 'eps': 1e-3, 'statistics': ('in',)},
        'b': {},
    }
    write_settings(layer(eps=1e-3), {}, 'a.')  # a plain dict has no place


@pytest.mark.parametrize(
    'own, saved',
    [
        (1e-5, 1.0000001e-5),
        (('in', 'bn'), ['in', 'bn']),
        # of other shapes, which torch tells of
        (('in', 'bn'), ('in', 'ln', 'bn')),
        (32, 32),
    ],
)
def test_settings_that_are_the_same(own, saved):
    check_settings(layer(name=own), 'a.', {'name': saved})
    check_settings(layer(name=own), 'a.', {})


@pytest.mark.parametrize(
    'own, saved',
    [(1e-5, 1e-3), (('in', 'bn'), ('bn', 'in')), (32, 16), (True, False)],
)
def test_settings_that_are_not(own, saved):
    with pytest.raises(CheckpointError) as caught:
        check_settings(layer(name=own), 'a.b.', {'name': saved})
    text = str(caught.value)
    assert text.startswith(f'a.b was saved with name={saved!r}')
    assert f'set name={saved!r} in its norm_cfg' in text
    # ... and make no difference to this layer
    check_settings(layer(used=('name',), name=own), 'a.', {'name': saved})


def public_state(channels=3):
    gen = torch.Generator().manual_seed(0)
    shapes = dict(
        weight=(1, channels, 1, 1),
        bias=(1, channels, 1, 1),
        running_mean=(1, channels, 1),
        running_var=(1, channels, 1),
        mean_weight=(3,),
        var_weight=(3,),
    )
    return {
        f'n.{name}': torch.rand(shape, generator=gen)
        for name, shape in shapes.items()
    }


def test_the_layout_of_the_public_code():
    state = public_state()
    given = dict(state)
    take_public(SN(3), state, 'n.')
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
        assert state[f'n.{name}'].shape == (3,)
        assert torch.equal(state[f'n.{name}'], given[f'n.{name}'].flatten())
    assert state['n.mean_weight'] is given['n.mean_weight']
    assert state['n.num_batches_tracked'] == 0


def test_a_count_that_is_there_or_not_wanted():
    state = public_state()
    state['n.num_batches_tracked'] = torch.tensor(7)
    take_public(SN(3), state, 'n.')
    assert state['n.num_batches_tracked'] == 7
    state = public_state()
    take_public(SN(3, track_running_stats=False), state, 'n.')
    assert 'n.num_batches_tracked' not in state


def test_shapes_that_mean_the_same():
    value = torch.arange(6.0)
    assert as_shaped(value.view(1, 6, 1), (6,)).tolist() == value.tolist()
    rows = as_shaped(value, (2, 6))
    assert torch.equal(rows, torch.stack([value, value]))
    rows[0] = 0
    assert value.any()  # memory of its own
    for shape in ((5,), (3, 2), (2, 3)):
        assert as_shaped(value, shape) is value
