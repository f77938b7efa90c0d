# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The stem of the public SSN ResNets, in each toolbox."""

from __future__ import annotations

import copy
import importlib
import pickle

import pytest
import torch
from mmengine.registry import MODELS

import sn_mm.models.ssn_resnet  # noqa: F401, registers it


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_only_the_stems_pool_is_another(scope):
    try:
        base = importlib.import_module(f'{scope}.models.backbones').ResNet
    except (ImportError, AssertionError):
        pytest.skip(f'{scope} cannot be imported')
    config = dict(depth=18, base_channels=8, stem_channels=8)
    if scope == 'mmpretrain':
        config = dict(depth=18)
    with MODELS.switch_scope_and_registry(scope) as models:
        model = models.build(dict(type='SSNResNet', **config))
        usual = models.build(dict(type='ResNet', **config))
    # not chained: train() of mmdet's ResNet returns None
    model.eval()
    usual.eval()
    assert isinstance(model, base)
    usual.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        stem = model.relu(model.norm1(model.conv1(x)))
        pooled = torch.nn.functional.max_pool2d(stem, 3, 2, ceil_mode=True)
        assert torch.equal(model.maxpool(stem), pooled)
        assert pooled.shape == usual.maxpool(stem).shape
        usual.maxpool = model.maxpool
        for one, other in zip(model(x), usual(x)):
            assert torch.equal(one, other)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_copies_and_pickles(scope):
    pytest.importorskip(scope)
    with MODELS.switch_scope_and_registry(scope) as models:
        model = models.build(
            dict(type='SSNResNet', depth=18, base_channels=8, stem_channels=8)
        )
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(made) is type(model) and made.maxpool.ceil_mode
        assert made.state_dict().keys() == model.state_dict().keys()
