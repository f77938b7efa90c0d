# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import matplotlib.pyplot as plt
import pytest

from sn_mm.analysis import ratio_numbers
from tests.unit.test_analysis.made import CLEAR, FIRM, TIED, snapshot

by_layer = pytest.importorskip('sn_mm.analysis.plots.by_layer')


def bars(axis):
    """(bottom, top) of each bar, statistic after statistic."""
    return [(p.get_y(), p.get_y() + p.get_height()) for p in axis.patches]


def test_a_row_for_means_and_one_for_variances():
    made = ratio_numbers.layer_numbers(
        [snapshot((FIRM, CLEAR), (TIED, FIRM), stages=['res2', 'res3'])]
    )
    figure = by_layer.draw_layers(made)
    means, variances = figure.axes
    assert [a.get_ylabel() for a in figure.axes] == ['means', 'variances']
    # in of both layers, then ln, then bn
    assert [top for _, top in bars(means)] == pytest.approx(
        [0.6, 1 / 3, 0.9, 2 / 3, 1, 1], abs=1e-4
    )
    assert bars(variances)[0] == pytest.approx((0, 0.3))
    assert [t.get_text() for t in means.texts] == ['res2', 'res3']
    # the lower row alone names the layers
    assert not means.get_xticks().size
    assert len(variances.get_xticklabels()) == 2
    plt.close(figure)


def test_the_same_layers_twice_are_named_once():
    pair = [snapshot((FIRM, FIRM)), snapshot((CLEAR, TIED), iteration=9)]
    figure = by_layer.draw_layers(ratio_numbers.layer_numbers(pair))
    assert [a.get_title('left') for a in figure.axes] == [
        'at 0',
        '',
        'at 9',
        '',
    ]
    assert [len(a.get_xticklabels()) for a in figure.axes] == [0, 0, 0, 1]
    plt.close(figure)
