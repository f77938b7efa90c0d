# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of every layout, through mmengine's and torch's loaders."""

import copy
import logging
from collections import OrderedDict

import pytest
import torch
from mmengine.runner import load_checkpoint, save_checkpoint
from mmengine.runner.checkpoint import load_state_dict

from tests.builders import (
    randomize_norms,
    resnet,
    switch_norms,
)

RUNNING = ('running_mean', 'running_var')


def backbone(norm='SN', **kwargs):
    return resnet(norm_cfg=dict(type=norm, **kwargs))


def as_public(state, layers):
    """The layout of the public code: extra axes, no counts, no metadata."""
    public = OrderedDict()
    for name, value in state.items():
        layer, _, key = name.rpartition('.')
        if key == 'num_batches_tracked':
            continue
        if layer in layers and key in ('weight', 'bias'):
            value = value.view(1, -1, 1, 1)
        elif layer in layers and key in RUNNING:
            value = value.view(1, -1, 1)
        public[name] = value
    return public


def same(model, state, but=()):
    got = model.state_dict()
    return all(
        torch.equal(got[n], v)
        for n, v in state.items()
        if not n.endswith(tuple(but))
    )


def load_by_mmengine(model, state):
    load_state_dict(model, state, strict=True)


def load_by_torch(model, state):
    model.load_state_dict(state, strict=True)


LOADERS = pytest.mark.parametrize(
    'load', [load_by_mmengine, load_by_torch], ids=['mmengine', 'torch']
)


@LOADERS
def test_public_shapes_without_counts_and_metadata(load):
    source = randomize_norms(backbone())
    state = source.state_dict()
    public = as_public(state, switch_norms(source))
    assert public['sn1.weight'].shape == (1, 8, 1, 1)
    assert public['sn1.running_var'].shape == (1, 8, 1)
    before = copy.deepcopy(public)
    model = backbone()
    load(model, public)
    assert same(model, state)
    x = torch.randn(1, 3, 33, 40)
    source.eval(), model.eval()
    assert all(torch.equal(a, b) for a, b in zip(model(x), source(x)))
    # the caller's dictionary is still the public one
    assert public.keys() == before.keys()
    assert all(public[n].shape == v.shape for n, v in before.items())


@LOADERS
@pytest.mark.parametrize('metadata', [True, False])
def test_with_and_without_metadata(load, metadata):
    source = randomize_norms(backbone())
    state = source.state_dict()
    assert state._metadata['sn1']['version'] is not None
    if not metadata:
        state = OrderedDict(state)
    model = backbone()
    load(model, state)
    assert same(model, state)


def two_ratios_with_running_statistics():
    """What a BN-less checkpoint of other code may still contain."""
    state = backbone(statistics=('in', 'ln')).state_dict()
    state['sn1.running_mean'] = torch.zeros(1, 8, 1)
    state['sn1.running_var'] = torch.ones(1, 8, 1)
    return state


@pytest.mark.parametrize('metadata', [True, False])
def test_superfluous_running_statistics_are_unexpected_keys(metadata):
    state = two_ratios_with_running_statistics()
    state = state if metadata else OrderedDict(state)
    model = backbone(statistics=('in', 'ln'))
    keys = model.load_state_dict(state, strict=False)
    assert not keys.missing_keys
    assert set(keys.unexpected_keys) == {f'sn1.{n}' for n in RUNNING}
    with pytest.raises(RuntimeError, match='Unexpected.*sn1.running_mean'):
        model.load_state_dict(state)


def test_mmengine_reports_them_and_goes_on(caplog, tmp_path):
    path = str(tmp_path / 'a.pth')
    save_checkpoint(
        dict(state_dict=two_ratios_with_running_statistics()), path
    )
    logger = logging.getLogger('for this test')
    with caplog.at_level(logging.WARNING, logger.name):
        load_checkpoint(backbone(statistics=('in', 'ln')), path, logger=logger)
    assert (
        'unexpected key in source state_dict: sn1.running_mean' in caplog.text
    )


@LOADERS
@pytest.mark.parametrize(
    'of_file,of_model',
    [(('in', 'ln', 'bn'), ('in', 'ln')), (('in', 'ln'), ('in', 'ln', 'bn'))],
    ids=['3 into 2', '2 into 3'],
)
def test_another_number_of_ratios_names_norm_cfg(load, of_file, of_model):
    state = backbone(statistics=of_file).state_dict()
    with pytest.raises(RuntimeError) as error:
        load(backbone(statistics=of_model), state)
    text = str(error.value)
    assert 'sn1.mean_weight' in text and 'statistics in norm_cfg' in text
    assert f'({len(of_file)},)' in text and str(of_model) in text


def test_counts_are_saved_and_loaded():
    source = backbone()
    source.train()
    for _ in range(3):
        source(torch.randn(2, 3, 33, 40))
    model = backbone()
    load_by_mmengine(model, source.state_dict())
    for layer in switch_norms(model).values():
        assert int(layer.num_batches_tracked) == 3
        assert layer.num_batches_tracked.dtype == torch.long
