# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""History files: written, continued, and broken in every way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sn_mm.analysis.history import (
    HistoryError,
    HistoryWriter,
    Record,
    read_history,
)
from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import LayerRatios

LAYERS = [
    LayerInfo('a', 'backbone', 'res1', '7x7', ('in', 'ln', 'bn'), 7),
    LayerInfo('b', 'neck', 'FPN', '1x1', ('in', 'ln'), math.inf),
    LayerInfo('c', 'box_head', 'box', 'other', ('in', 'ln'), None),
]


def record(iteration: int) -> Record:
    rng = np.random.default_rng(iteration)
    ratios = [
        LayerRatios(
            x.name,
            x.statistics,
            *rng.dirichlet(np.ones(len(x.statistics)), (2, 2)),
        )
        for x in LAYERS
    ]
    return Record(iteration, iteration // 10, ratios)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'ratios.jsonl'
    writer = HistoryWriter(path, LAYERS)
    for iteration in (0, 10, 20):
        writer.append(record(iteration))
    return path


def iterations(path) -> list[int]:
    return [r.iteration for r in read_history(path).records]


def test_round_trip(path):
    history = read_history(path)
    assert history.layers == LAYERS
    for got, time in zip(history.records, (0, 10, 20)):
        want = record(time)
        assert (got.iteration, got.epoch) == (want.iteration, want.epoch)
        for one, other in zip(got.ratios, want.ratios):
            assert one.statistics == other.statistics
            np.testing.assert_allclose(one.mean, other.mean, atol=1e-5)
            np.testing.assert_allclose(one.var, other.var, atol=1e-5)
    assert iterations(path.parent) == [0, 10, 20]  # the folder will do


def test_an_iteration_is_written_once(path):
    writer = HistoryWriter(path, LAYERS, resumed=20)
    writer.append(record(20))
    writer.append(record(30))
    writer.append(record(30))
    assert iterations(path) == [0, 10, 20, 30]


def test_going_on_drops_what_is_done_again(path):
    HistoryWriter(path, LAYERS, resumed=15).append(record(20))
    assert iterations(path) == [0, 10, 20]


def test_a_new_run_keeps_the_old_history(path):
    for _ in range(2):
        HistoryWriter(path, LAYERS).append(record(5))
    assert iterations(path) == [5]
    assert iterations(path.with_name('ratios.1.jsonl')) == [0, 10, 20]
    assert iterations(path.with_name('ratios.2.jsonl')) == [5]


def test_going_on_with_another_model(path):
    with pytest.raises(HistoryError, match='other SN layers.*move the file'):
        HistoryWriter(path, LAYERS[:2], resumed=10)
    assert iterations(path) == [0, 10, 20]


def test_a_run_that_was_killed(path):
    path.write_text(path.read_text()[:-20])
    with pytest.warns(UserWarning, match='last line breaks off'):
        assert iterations(path) == [0, 10]
    with pytest.warns(UserWarning):
        HistoryWriter(path, LAYERS, resumed=20).append(record(20))
    assert iterations(path) == [0, 10, 20]


def change(line: str, **values) -> str:
    return json.dumps({**json.loads(line), **values})


@pytest.mark.parametrize(
    'number, broken, words',
    [
        (0, lambda s: 'hello', 'no history of ratios.*RatioHook'),
        (0, lambda s: '[1]', 'no history of ratios'),
        (0, lambda s: change(s, version=9), 'version 9 of the format'),
        (0, lambda s: change(s, layers=[{}]), 'line 1: broken description'),
        (2, lambda s: s[:40], r'line 3 is broken.*delete that line'),
        (2, lambda s: change(s, mean=[[[1.0]]] * 3), 'line 3 is broken.*rat'),
        (2, lambda s: change(s, var=[]), 'line 3 is broken'),
        (2, lambda s: change(s, iter='x'), 'line 3 is broken'),
        (
            1,
            lambda s: s.replace('0.', '-0.'),
            'line 2 is broken.*numbers from 0',
        ),
        (3, lambda s: change(s, iter=4), 'line 4: iteration 4 comes after 10'),
    ],
)
def test_broken_files(path, number, broken, words):
    lines = path.read_text().splitlines()
    lines[number] = broken(lines[number])
    path.write_text('\n'.join(lines) + '\n')
    with pytest.raises(HistoryError, match=words):
        read_history(path)


def test_empty_and_missing_files(tmp_path):
    (tmp_path / 'x.jsonl').touch()
    with pytest.raises(HistoryError, match='is empty'):
        read_history(tmp_path / 'x.jsonl')
    with pytest.raises(HistoryError, match='not found; add.*RatioHook'):
        read_history(tmp_path)
