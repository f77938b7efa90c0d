# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios in state dicts: of a sparse layer for SN, of SN for a sparse one."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from sn_mm import SN, SSN, SyncSN, SyncSSN
from sn_mm.functional.sparsestmax import sparsestmax
from sn_mm.layers.ratio_forms import (
    is_choice,
    is_set,
    logits_of,
    logits_to_sparse,
    sparse_ratios,
    sparse_to_logits,
)
from tests.utils import randomize, relative_error

PAIRS = [(SSN, SN), (SyncSSN, SyncSN), (SSN, SyncSN)]
STATES = ['open', 'near a choice', 'one chosen', 'chosen']


def layer(cls, state='open', groups=1, **kwargs):
    made = cls(8, ratio_groups=groups, **kwargs)
    randomize(made, 3)
    if isinstance(made, SSN):
        made.mean_fixed.zero_(), made.var_fixed.zero_()
        made.radius.fill_({'open': 0.2}.get(state, 0.6))
        if 'chosen' in state:
            made.mean_fixed.fill_(1)
        if state == 'chosen':
            made.harden_()
    return made.eval()


def by_torch(model, state):
    model.load_state_dict(state, strict=True)


def by_mmengine(model, state):
    load_state_dict(model, state, strict=True)


@pytest.mark.parametrize('load', [by_torch, by_mmengine])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('state', STATES)
@pytest.mark.parametrize('sparse, soft', PAIRS)
def test_sn_reads_what_a_sparse_layer_saved(sparse, soft, state, groups, load):
    source = nn.Sequential(layer(sparse, state, groups))
    saved = source.state_dict()
    keys = list(saved)
    model = nn.Sequential(layer(soft, groups=groups))
    load(model, saved)
    x = torch.randn(2, 8, 5, 4)
    assert relative_error(model(x), source(x).double()) < 1e-5
    assert list(saved) == keys  # the caller's is as it was


@pytest.mark.parametrize('load', [by_torch, by_mmengine])
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('sparse, soft', PAIRS)
def test_a_sparse_layer_reads_what_sn_saved(sparse, soft, groups, load):
    source = nn.Sequential(layer(soft, groups=groups))
    # whatever the sparse layer was before
    model = nn.Sequential(layer(sparse, 'one chosen', groups))
    load(model, dict(source.state_dict()))
    x = torch.randn(2, 8, 5, 4)
    assert relative_error(model(x), source(x).double()) < 1e-5
    assert model[0].radius == 0 and model[0].choices() is None


def test_hard_ratios_stay_a_choice_either_way():
    hard = SN(8)
    hard.harden_()
    sparse = SSN(8)
    sparse.load_state_dict(hard.state_dict())
    assert sparse.choices() == hard.choices() is not None
    assert sparse.mean_fixed == 1 and sparse.var_fixed == 1
    back = SN(8, hard_ratios=True)
    back.load_state_dict(sparse.state_dict())
    assert back.choices() == hard.choices()


def test_states_of_its_own_kind_are_left_alone():
    for make, change in ((SN, sparse_to_logits), (SSN, logits_to_sparse)):
        state = dict(nn.Sequential(layer(make)).state_dict())
        before = {k: v.clone() for k, v in state.items()}
        change(state, '0.')
        assert list(state) == list(before)
        assert all(torch.equal(state[k], v) for k, v in before.items())


def test_no_ratios_no_change():
    for change in (sparse_to_logits, logits_to_sparse):
        state = {'0.weight': torch.ones(8)}
        change(state, '0.')
        assert list(state) == ['0.weight']


def test_averaged_flags_and_weights():
    """A flag of 0.0002 is no choice, one of 0.9 is; weights may be moved."""
    weight = torch.tensor([0.8, 0.5, 0.1])
    radius = torch.tensor([0.3])
    few, most = torch.tensor([2e-4]), torch.tensor([0.9])
    assert torch.equal(
        sparse_ratios(weight, few, radius), sparsestmax(weight, radius)
    )
    assert sparse_ratios(weight, most, radius).tolist() == [1, 0, 0]
    both = torch.stack([weight, weight])
    mixed = sparse_ratios(both, torch.cat([few, most]), radius)
    assert mixed[1].tolist() == [1, 0, 0] and mixed[0].max() < 1
    assert is_set(torch.cat([few, most]), both).tolist() == [[False], [True]]


def test_logits_of_choices_are_finite():
    ratio = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    logits = logits_of(ratio)
    assert logits.isfinite().all()
    assert torch.allclose(logits.softmax(-1), ratio)
    assert logits.softmax(-1)[0].tolist() == [0, 1, 0]
    assert is_choice(ratio).tolist() == [True, False]
    assert is_choice(torch.ones(2, 1)).tolist() == [1, 1]
