# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from sn_mm.analysis import ratio_numbers
from tests.unit.test_analysis.made import CLEAR, FIRM, NARROW, TIED, snapshot

hard_choices = pytest.importorskip('sn_mm.analysis.plots.hard_choices')


def test_cells_of_ties_have_no_statistics_colour():
    made = ratio_numbers.hard_numbers(
        [snapshot((TIED, FIRM), (CLEAR, NARROW))]
    )
    figure = hard_choices.draw_hard(made)
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
    labels = hard_choices.draw_hard(made).legends[0].get_texts()
    assert 'undecided' not in [t.get_text() for t in labels]
