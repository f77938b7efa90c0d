# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is on the axes and in the cells of the pictures."""

import numpy as np
import pytest

from sn_mm.analysis import ratio_numbers, summary
from sn_mm.analysis.snapshots import Run, Snapshot
from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import LayerRatios

plots = pytest.importorskip('sn_mm.analysis.plots')
style = pytest.importorskip('sn_mm.analysis.plots.style')

NAMES = ('in', 'ln', 'bn')
FIRM, TIED = (0.6, 0.3, 0.1), (1 / 3, 1 / 3, 1 / 3)
NARROW = (0.33, 0.33, 0.34)
CLEAR = (0.3, 0.3, 0.4)


def snapshot(*pairs, iteration=0):
    """A layer for each (mean, var)."""
    layers = [
        LayerInfo(f'layer{i}', 'backbone', 'res2', '3x3', NAMES, 11.0)
        for i in range(len(pairs))
    ]
    ratios = [
        LayerRatios(layer.name, NAMES, *(np.array([r]) for r in pair))
        for layer, pair in zip(layers, pairs)
    ]
    return Snapshot(f'at {iteration}', layers, ratios, iteration)


# -- hard ----------------------------------------------------------------
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


def test_cells_of_ties_have_no_statistics_colour():
    made = ratio_numbers.hard_numbers(
        [snapshot((TIED, FIRM), (CLEAR, NARROW))]
    )
    figure = plots.draw_hard(made)
    (axis,) = figure.axes
    cells = {
        (round(p.get_x() + 0.45), round(p.get_y() - 0.05)): p
        for p in axis.patches
    }
    letters = [t.get_text() for t in axis.texts]
    assert sorted(x for x in letters if len(x) == 1) == ['B', 'I']
    hatched = {place for place, p in cells.items() if p.get_hatch()}
    assert hatched == {(0, 1), (1, 0)}  # layer 0's mean, layer 1's var
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert 'undecided' in labels
    made = ratio_numbers.hard_numbers([snapshot((FIRM, FIRM))])
    labels = plots.draw_hard(made).legends[0].get_texts()
    assert 'undecided' not in [t.get_text() for t in labels]


@pytest.mark.parametrize('layers', [2, 32, 64])
def test_legends_fit_into_their_figures(layers):
    pairs = [(TIED, FIRM)] * layers
    for figure in (
        plots.draw_hard(ratio_numbers.hard_numbers([snapshot(*pairs)])),
        plots.draw_layers(ratio_numbers.layer_numbers([snapshot(*pairs)])),
    ):
        figure.canvas.draw()
        box = figure.legends[0].get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width


def test_margins():
    layer = LayerRatios('x', NAMES, np.array([FIRM, TIED]), np.array([CLEAR]))
    np.testing.assert_allclose(layer.margin('mean'), [0.3, 0])
    np.testing.assert_allclose(layer.margin('var'), [0.1])
    assert layer.is_tied()
    alone = LayerRatios('x', ('in',), np.ones((2, 1)), np.ones((2, 1)))
    np.testing.assert_array_equal(alone.margin('mean'), 1)
    assert not alone.is_tied()


# -- time ----------------------------------------------------------------
def axes_of(*ratios):
    source = Run(
        'run',
        [snapshot((r, r), iteration=i) for i, r in enumerate(ratios)],
    )
    figure = plots.draw_time([ratio_numbers.time_numbers(source)])
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


# -- files ---------------------------------------------------------------
def test_files_are_the_same_for_the_same_numbers(tmp_path):
    made = ratio_numbers.hard_numbers([snapshot((TIED, FIRM))])
    written = []
    for name in 'ab':
        files = plots.save(plots.draw_hard(made), tmp_path / name / 'x')
        written.append([f.read_bytes() for f in files])
        assert [f.suffix for f in files] == ['.png', '.svg', '.pdf']
    for kind in (0, 2):  # SVG has random ids of its own
        assert written[0][kind] == written[1][kind]
    assert b'/FontFile2' in written[0][2]  # TrueType: text stays text
