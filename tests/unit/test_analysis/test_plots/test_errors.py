# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import matplotlib.pyplot as plt
import pytest

from sn_mm.analysis.plots.errors import draw_errors


def test_a_line_for_each_output_and_a_mark_at_the_best_state():
    taught = [[1.0 / step, float('nan')] for step in range(1, 11)]
    held_out = [(0, [2.0, 1.0]), (5, [0.5, 0.2]), (10, [0.6, 0.3])]
    figure = draw_errors(['backbone', 'head'], taught, held_out, best=5)
    axis = figure.axes[0]
    measured = [x for x in axis.lines if not x.get_label().startswith('_')]
    assert [x.get_label() for x in measured] == ['backbone', 'head']
    assert list(measured[1].get_xdata()) == [0, 5, 10]
    assert list(measured[1].get_ydata()) == [1.0, 0.2, 0.3]
    # ten steps are too few to average over
    assert list(axis.lines[0].get_ydata()) == pytest.approx(
        [1 / step for step in range(1, 11)]
    )
    assert list(axis.lines[-1].get_xdata()) == [5, 5]
    assert axis.get_yscale() == 'log'
    plt.close(figure)
