# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import matplotlib.pyplot as plt
import pytest

from sn_mm.analysis import ratio_numbers
from tests.unit.test_analysis.made import CLEAR, FIRM, snapshot

by_component = pytest.importorskip('sn_mm.analysis.plots.by_component')


def test_bars_are_the_averages_stacked_up():
    made = ratio_numbers.component_numbers(
        [
            snapshot(
                (FIRM, CLEAR), (CLEAR, FIRM), components=['backbone', 'neck']
            )
        ]
    )
    figure = by_component.draw_components(made)
    (axis,) = figure.axes
    # backbone, neck and all; mean and var of each; three statistics
    assert len(axis.patches) == 3 * 2 * 3
    heights = [p.get_height() for p in axis.patches]
    bottoms = [p.get_y() for p in axis.patches]
    assert heights[:3] == pytest.approx(FIRM)
    assert heights[3:6] == pytest.approx(CLEAR)
    assert heights[-3:] == pytest.approx([0.45, 0.3, 0.25])
    assert bottoms[:3] == pytest.approx([0, 0.6, 0.9])
    labels = [t.get_text() for t in axis.get_xticklabels()]
    assert labels == ['mean', 'var'] * 3
    texts = [t.get_text() for t in axis.texts]
    # a share has its number where it is legible
    assert '.60' in texts and '.10' in texts
    assert any(t.startswith('all') and t.endswith('(2)') for t in texts)
    plt.close(figure)


def test_shares_too_small_to_read_have_no_number():
    made = ratio_numbers.component_numbers([snapshot(((0.95, 0.05, 0),) * 2)])
    figure = by_component.draw_components(made)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts.count('.95') == 2 and '.05' not in texts
    plt.close(figure)
