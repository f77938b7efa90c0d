# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The figures' numbers as text."""

from __future__ import annotations

import numpy as np

from sn_mm.analysis import ratio_numbers, summary
from sn_mm.analysis.snapshots import Run, Snapshot
from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import LayerRatios

NAMES = ('in', 'ln', 'bn')
MEANS = {'a': (0.6, 0.3, 0.1), 'b': (0.2, 0.3, 0.5), 'c': (0.7, 0.2, 0.1)}
VARS = {'a': (0.1, 0.3, 0.6), 'b': (0.2, 0.3, 0.5), 'c': (0.1, 0.7, 0.2)}


def snapshot(title='s', iteration=None, means=MEANS):
    layers = [
        LayerInfo(n, 'neck' if n == 'c' else 'backbone', '', '', NAMES, 11.0)
        for n in MEANS
    ]
    ratios = [
        LayerRatios(n, NAMES, np.array([means[n]]), np.array([VARS[n]]))
        for n in MEANS
    ]
    return Snapshot(title, layers, ratios, iteration)


def test_layers():
    lines = summary.summarize_layers(
        ratio_numbers.layer_numbers([snapshot()])
    ).splitlines()
    assert lines == [
        's: 3 SN layers',
        '  largest mean ratio: 2 IN, 0 LN, 1 BN',
        '  largest var ratio: 0 IN, 1 LN, 2 BN',
        lines[3],
    ]
    most = lines[3].partition('differ most in: ')[2].split(', ')
    assert [text.split()[0] for text in most] == ['c', 'a', 'b']
    assert most[2] == 'b (0.00)'


def test_components():
    text = summary.summarize_components(
        ratio_numbers.component_numbers([snapshot()])
    )
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows['backbone'][1:] == '2 0.40 0.30 0.30 0.15 0.30 0.55'.split()
    assert rows['FPN'][2:] == 'neck 1 0.70 0.20 0.10 0.10 0.70 0.20'.split()
    assert rows['all'][1:] == '3 0.50 0.27 0.23 0.13 0.43 0.43'.split()


def test_time():
    later = {**MEANS, 'a': (0.0, 0.3, 0.7)}
    run = Run('run', [snapshot('0', 0), snapshot('1', 50, later)])
    text = summary.summarize_time([ratio_numbers.time_numbers(run)])
    assert text.startswith('run: 2 records, iterations 0 to 50')
    assert 'mean IN 0.50 -> 0.30, LN 0.27 -> 0.27, BN 0.23 -> 0.43' in text
    assert 'var  IN 0.13 -> 0.13' in text


def test_hard():
    later = {**MEANS, 'a': (0.0, 0.3, 0.7)}
    made = ratio_numbers.hard_numbers(
        [snapshot('first'), snapshot('then', means=later)]
    )
    assert summary.summarize_hard(made).splitlines() == [
        '3 SN layers',
        '  first: mean and var differ in 2 (67%)',
        '  then: mean and var differ in 1 (33%); 1 changed (33%)',
    ]
