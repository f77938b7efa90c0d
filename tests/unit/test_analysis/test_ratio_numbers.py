# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers of the figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sn_mm.analysis import ratio_numbers, summary
from sn_mm.analysis.snapshots import Run, Snapshot
from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import LayerRatios
from tests.unit.test_analysis.made import (
    CLEAR,
    FIRM,
    NARROW,
    TIED,
    snapshot,
)


def layer(name: str, mean, var, statistics=('in', 'ln', 'bn')) -> LayerRatios:
    return LayerRatios(
        name, statistics, *(np.atleast_2d(np.array(x)) for x in (mean, var))
    )


def info(name: str, field=None, component='backbone') -> LayerInfo:
    return LayerInfo(name, component, 'res1', '3x3', ('in', 'ln', 'bn'), field)


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


def test_ties_are_no_choices():
    made = ratio_numbers.hard_numbers(
        [
            snapshot((TIED, FIRM), (NARROW, NARROW), (FIRM, CLEAR)),
            snapshot((FIRM, FIRM), (NARROW, NARROW), (FIRM, CLEAR)),
        ]
    )
    first, second = made['snapshots']
    assert first['mean'] == [['undecided'], ['undecided'], ['in']]
    assert first['var'] == [['in'], ['undecided'], ['bn']]
    assert (first['undecided'], second['undecided']) == (2, 1)
    assert first['differing'] == 1  # layers that chose twice
    assert second['changed'] == [True, False, False]
    text = summary.summarize_hard(made)
    assert '2 undecided' in text and '1 undecided' in text
