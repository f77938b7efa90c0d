# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios out of models and state dicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sn_mm import SN, SSN, harden
from sn_mm.anatomy.layer_info import infos_of_state
from sn_mm.anatomy.ratios import (
    LayerRatios,
    all_ratios_of_state,
    ratios_of_model,
    ratios_of_state,
)
from sn_mm.layers import DN, EN
from tests.builders import (
    faster_rcnn,
    randomize_norms,
    resnet,
    switch_norms,
)
from tests.utils import is_hard


def same(one: list[LayerRatios], other: list[LayerRatios]) -> None:
    assert [r.name for r in one] == [r.name for r in other]
    for a, b in zip(one, other):
        assert a.statistics == b.statistics
        np.testing.assert_allclose(a.mean, b.mean, atol=1e-6)
        np.testing.assert_allclose(a.var, b.var, atol=1e-6)


def test_models_and_their_state_dicts_agree():
    model = randomize_norms(faster_rcnn())
    ratios = ratios_of_model(model)
    same(ratios, ratios_of_state(model.state_dict()))
    for ratio, (name, module) in zip(ratios, switch_norms(model).items()):
        assert ratio.name == name
        own = module.ratios()['var'].double().numpy()
        np.testing.assert_allclose(ratio.var[0], own, atol=1e-6)


def test_sparse_grouped_and_other_statistics():
    model = nn.Sequential(
        SSN(8), SSN(8, ratio_groups=2), SN(8, ratio_groups=4)
    )
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    model[0].mean_fixed.fill_(1)
    model[0].mean_weight.data.copy_(torch.tensor([0.0, 1.0, 0.0]))
    model[1].radius.fill_(0.5)
    same(ratios_of_model(model), ratios_of_state(model.state_dict()))
    # what an average of models makes of flags and of a choice's weight
    for flag in (2e-4, 0.9):
        model[0].mean_fixed.fill_(flag)
        model[0].mean_weight.data.copy_(torch.tensor([0.1, 0.8, 0.3]))
        same(ratios_of_model(model), ratios_of_state(model.state_dict()))
    odd = SN(8, statistics=('bn', 'gn'), num_groups=2).state_dict()
    assert ratios_of_state(odd)[0].statistics == ('in', 'ln')
    named = ratios_of_state(odd, {'': ('bn', 'gn')})
    assert named[0].statistics == ('bn', 'gn')
    with pytest.raises(ValueError, match='has 2 ratios, but statistics'):
        ratios_of_state(odd, {'': ('bn',)})


def test_hard_and_tied():
    model = resnet()
    assert all(r.is_tied() for r in ratios_of_model(model))
    assert not any(is_hard(r) for r in ratios_of_model(model))
    harden(model)
    assert all(is_hard(r) for r in ratios_of_model(model))
    assert not any(r.is_tied() for r in ratios_of_model(model))


def test_layers_that_say_where_their_ratios_are():
    """Out of a state dict as out of the model, in the model's order."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), DN(8), SN(8), nn.Conv2d(8, 8, 1), EN(8), DN(8)
    )
    model(torch.randn(2, 3, 6, 6))
    want = ratios_of_model(model)
    got = all_ratios_of_state(model.state_dict())
    assert [r.name for r in got] == ['1', '2', '4', '5']
    for ours, theirs in zip(got, want):
        assert ours.name == theirs.name
        assert ours.statistics == theirs.statistics
        for kind in ('mean', 'var'):
            np.testing.assert_allclose(
                getattr(ours, kind), getattr(theirs, kind), atol=1e-6
            )
    kinds = [i.kind for i in infos_of_state(model.state_dict(), got)]
    assert kinds == ['3x3', '3x3', '1x1', '1x1']
    with pytest.raises(ValueError, match='no SN layer'):
        all_ratios_of_state(nn.BatchNorm2d(3).state_dict())


def test_margins():
    layer = LayerRatios(
        'x',
        ('in', 'ln', 'bn'),
        np.array([(0.6, 0.3, 0.1), (1 / 3,) * 3]),
        np.array([(0.3, 0.3, 0.4)]),
    )
    np.testing.assert_allclose(layer.margin('mean'), [0.3, 0])
    np.testing.assert_allclose(layer.margin('var'), [0.1])
    assert layer.is_tied()
    alone = LayerRatios('x', ('in',), np.ones((2, 1)), np.ones((2, 1)))
    np.testing.assert_array_equal(alone.margin('mean'), 1)
    assert not alone.is_tied()
