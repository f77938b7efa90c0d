# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of our schemes fill models themselves; all others do not."""

from __future__ import annotations

from types import SimpleNamespace

import mmengine.runner.checkpoint as mmengine_checkpoint
import mmengine.runner.runner as mmengine_runner
import pytest
import torch
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import nn

import sn_mm
from sn_mm.checkpoints import CheckpointError
from sn_mm.patches import fill_models


class Own(dict):
    """A checkpoint that notes what it is asked to fill."""

    def __init__(self, complete=True):
        super().__init__(state_dict={})
        self.filled = []
        self.complete = complete

    def fill(self, model):
        self.filled.append(model)
        return SimpleNamespace(
            complete=self.complete, summary=lambda: 'bias is NOT FILLED'
        )


def load(model, checkpoint, **options):
    return mmengine_checkpoint._load_checkpoint_to_model(
        model, checkpoint, **options
    )


def test_our_own_do_it_themselves():
    model, own = nn.Linear(2, 2), Own()
    before = model.weight.clone()
    assert load(model, own) is own
    assert own.filled == [model] and torch.equal(model.weight, before)


def test_strict_loading_needs_all_of_the_model():
    model = nn.Linear(2, 2)
    load(model, Own(), strict=True)
    load(model, Own(complete=False))
    with pytest.raises(CheckpointError, match='bias is NOT FILLED'):
        load(model, Own(complete=False), strict=True)


def test_all_others_go_to_mmengine(tmp_path):
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    file = str(tmp_path / 'x.pth')
    save_checkpoint(dict(state_dict=one.state_dict()), file)
    load_checkpoint(other, file, strict=True)
    assert torch.equal(one.weight, other.weight)


def test_everybody_has_the_one_wrapper():
    """Also who imported mmengine's function by name."""
    function = mmengine_checkpoint._load_checkpoint_to_model
    fill_models()
    assert mmengine_checkpoint._load_checkpoint_to_model is function
    assert mmengine_runner._load_checkpoint_to_model is function


@pytest.mark.parametrize('prefix', ['module.', 'student.'])
def test_metadata_gets_the_names_that_keys_get(tmp_path, prefix):
    """What DistributedDataParallel saved is checked as all else is."""
    parts = prefix.strip('.'), nn.Sequential(sn_mm.SN(4, eps=1e-3))
    file = str(tmp_path / 'a.pth')
    torch.save(nn.ModuleDict([parts]).state_dict(), file)
    names = dict(revise_keys=[(rf'^{prefix}', '')])
    options = {} if prefix == 'module.' else names
    load_checkpoint(nn.Sequential(sn_mm.SN(4, eps=1e-3)), file, **options)
    with pytest.raises(CheckpointError, match='saved with eps=0.001'):
        load_checkpoint(nn.Sequential(sn_mm.SN(4)), file, **options)
