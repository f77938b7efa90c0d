# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""mmengine's loading tells of weights of other norms; what it says of each
norm is in test_checkpoints/test_foreign.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict

import pytest
import torch
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from sn_mm import SN
from sn_mm.patches import foreign_norms
from sn_mm.utils.errors import CheckpointError


def network(**norm):
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), **norm))


def bn_state():
    return network(bn1=nn.BatchNorm2d(4)).state_dict()


def load(model):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        mmengine_checkpoint.load_state_dict(model, bn_state())
    return [str(w.message) for w in caught if 'batch norm' in str(w.message)]


def test_training_is_warned_and_goes_on():
    model = network(sn1=SN(4))
    model.conv.weight.data.zero_()
    (text,) = load(model)
    assert 'bn2sn://' in text
    # what fits is loaded
    assert torch.equal(model.conv.weight, bn_state()['conv.weight'])
    assert load(network(bn1=nn.BatchNorm2d(4))) == []


@pytest.mark.parametrize('name', ['val', 'test'])
def test_tests_refuse(monkeypatch, name):
    """And training after them warns as before."""
    model = network(sn1=SN(4))
    run = foreign_norms._strict(lambda self: load(model))
    with pytest.raises(CheckpointError, match='batch norm'):
        run(None)
    assert len(load(model)) == 1
    assert hasattr(getattr(Runner, name), '_sn_mm_strict')


def test_wrapped_once():
    function = mmengine_checkpoint.load_state_dict
    runs = Runner.val, Runner.test
    foreign_norms.watch_loading()
    foreign_norms.refuse_in_tests()
    assert mmengine_checkpoint.load_state_dict is function
    assert (Runner.val, Runner.test) == runs
    assert not hasattr(function.__wrapped__, '_sn_mm_watched')
