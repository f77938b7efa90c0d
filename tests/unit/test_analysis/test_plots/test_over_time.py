# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The axes of ratios over time."""

import pytest

from sn_mm.analysis import ratio_numbers
from sn_mm.analysis.snapshots import Run
from tests.unit.test_analysis.made import TIED, snapshot

over_time = pytest.importorskip('sn_mm.analysis.plots.over_time')


def axes_of(*ratios):
    source = Run(
        'run',
        [snapshot((r, r), iteration=i) for i, r in enumerate(ratios)],
    )
    figure = over_time.draw_time([ratio_numbers.time_numbers(source)])
    return [axis.get_ylim() for axis in figure.axes[:2]]


def test_axis_of_what_moves_by_hundredths():
    """As in a short training: the lines fill the axis, and all are seen."""
    for low, high in axes_of(TIED, (0.36, 0.33, 0.31), (0.4, 0.34, 0.26)):
        assert low < 0.26 < 0.4 < high
        assert high - low < 0.2


def test_axis_of_what_moves_all_the_way():
    for low, high in axes_of(TIED, (1.0, 0.0, 0.0)):
        assert -0.1 < low <= 0 and 1 <= high < 1.1


def test_axis_of_what_does_not_move():
    """Noise of 1e-6 is not drawn as if it were a choice."""
    for low, high in axes_of(TIED, (1 / 3 + 1e-6, 1 / 3, 1 / 3 - 1e-6)):
        assert high - low >= 0.1
