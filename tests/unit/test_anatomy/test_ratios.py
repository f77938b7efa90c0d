# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios out of models and state dicts, and the numbers of the figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sn_mm import SN, SSN, harden
from sn_mm.analysis import ratio_numbers
from sn_mm.analysis.snapshots import Run, Snapshot
from sn_mm.anatomy.layer_info import LayerInfo, infos_of_model, infos_of_state
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


def layer(name: str, mean, var, statistics=('in', 'ln', 'bn')) -> LayerRatios:
    return LayerRatios(
        name, statistics, *(np.atleast_2d(np.array(x)) for x in (mean, var))
    )


def info(name: str, field=None, component='backbone') -> LayerInfo:
    return LayerInfo(name, component, 'res1', '3x3', ('in', 'ln', 'bn'), field)


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


@pytest.mark.parametrize('depth, shortcuts', [(18, 3), (50, 4)])
def test_kinds_of_layers(depth, shortcuts):
    model = resnet(depth=depth)
    infos, note = infos_of_model(model)
    assert not note
    by_state = infos_of_state(model.state_dict(), ratios_of_model(model))
    assert [(i.kind, i.stage) for i in infos] == [
        (i.kind, i.stage) for i in by_state
    ]
    kinds = [i.kind for i in infos]
    assert kinds.count('shortcut') == shortcuts and kinds.count('7x7') == 1
    if depth == 50:
        assert kinds.count('3x3') == 16 and kinds.count('1x1') == 32
    assert {i.stage for i in infos} == {f'res{k}' for k in range(1, 6)}
    labels = [i.short for i in infos]
    assert len(set(labels)) == len(labels)
    assert labels[1] == 'res2.1.1'


def test_labels_of_a_detector_are_distinct_in_each_component():
    infos, _ = infos_of_model(faster_rcnn())
    labels = [(i.component, i.short) for i in infos]
    assert len(set(labels)) == len(labels)
    assert ('neck', 'lateral.0') in labels
    assert ('box_head', 'shared.3') in labels


def test_divergence():
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    want = (p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()
    assert ratio_numbers.symmetric_divergence(p, q) == pytest.approx(want)
    assert ratio_numbers.symmetric_divergence(p, p) == 0
    hard = ratio_numbers.symmetric_divergence(np.eye(3)[0], np.eye(3)[1])
    assert 10 < hard < 100


def test_component_averages():
    snapshot = Snapshot(
        's',
        [info('a'), info('b'), info('c', component='neck')],
        [
            layer('a', [1, 0, 0], [0, 0, 1]),
            layer('b', [0, 1, 0], [0, 0, 1]),
            layer('c', [0, 0, 1], [0.5, 0.5, 0]),
        ],
    )
    (made,) = ratio_numbers.component_numbers([snapshot])
    parts = made['components']
    assert list(parts) == ['backbone', 'neck', 'all']
    assert parts['backbone']['mean'] == {'in': 0.5, 'ln': 0.5, 'bn': 0}
    assert parts['all']['layers'] == 3
    assert parts['all']['var']['bn'] == pytest.approx(2 / 3, abs=1e-6)


def source(*times) -> Run:
    names = dict(a=7, b=49, c=298, d=299, e=math.inf, f=None)
    infos = [info(n, field) for n, field in names.items()]
    return Run(
        'run',
        [
            Snapshot(
                f't{t}',
                infos,
                [layer(n, [1, 0, 0], [0, 1, 0]) for n in names],
                t,
            )
            for t in times
        ],
    )


def test_groups_of_receptive_fields():
    made = ratio_numbers.time_numbers(source(0, 10))
    groups = {
        g['title']: [x['name'] for x in g['layers']] for g in made['groups']
    }
    assert groups == {
        'RF < 49': ['a'],
        '49 ≤ RF < 299': ['b', 'c'],
        'RF ≥ 299': ['d'],
        'whole image': ['e'],
        'RoI, or not known': ['f'],
    }
    assert made['groups'][0]['layers'][0]['mean']['in'] == [1, 1]
    one = ratio_numbers.time_numbers(source(0, 10), [])
    assert len(one['groups']) == 3
    with pytest.raises(ValueError, match='ascend'):
        ratio_numbers.time_numbers(source(0, 10), [299, 49])


@pytest.mark.parametrize('times', [(5,), (5, None)])
def test_time_needs_a_history(times):
    with pytest.raises(ValueError, match='run has no history'):
        ratio_numbers.time_numbers(source(*times))


def test_what_changed():
    names = 'abc'
    before = [layer(n, [1, 0, 0], [1, 0, 0]) for n in names]
    after = [
        layer('a', [0.6, 0.4, 0], [0.6, 0.4, 0]),
        layer('b', [0.4, 0.6, 0], [0.6, 0.4, 0]),
        layer('c', [0, 0.4, 0.6], [0, 0.6, 0.4]),
    ]
    infos = [info(n) for n in names]
    made = ratio_numbers.hard_numbers(
        [Snapshot('x', infos, before), Snapshot('y', infos, after)]
    )
    first, second = made['snapshots']
    assert 'changed' not in first and first['differing'] == 0
    assert second['changed'] == [False, True, True]
    assert second['changed_var'] == [False, False, True]
    assert second['differing'] == 2
    other = Snapshot('z', infos[:2], before[:2])
    with pytest.raises(ValueError, match='x and z do not have the same'):
        ratio_numbers.hard_numbers([Snapshot('x', infos, before), other])


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
