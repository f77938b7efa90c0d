# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What all figures share: colours, legends, files."""

import pytest

from sn_mm.analysis import ratio_numbers
from tests.unit.test_analysis.made import FIRM, TIED, snapshot

plots = pytest.importorskip('sn_mm.analysis.plots')
style = pytest.importorskip('sn_mm.analysis.plots.style')


def test_statistics_have_colours_of_their_own():
    colours = style.colours_of(('in', 'bn', 'sw', 'rn'))
    assert colours['in'] == style.COLOURS['in']
    assert colours['bn'] == style.COLOURS['bn']
    assert len(set(colours.values())) == 4


def test_neighbouring_layers_of_a_stage_are_one_span():
    layers = [dict(stage=s) for s in ('res1', 'res2', 'res2', 'neck', 'res2')]
    assert style.stage_spans(layers) == [
        ('res1', 0, 0),
        ('res2', 1, 2),
        ('neck', 3, 3),
        ('res2', 4, 4),
    ]


def test_markers_of_kinds():
    handles = style.kind_handles(['wide', '1x1', '3x3', '1x1'])
    assert [h.get_label() for h in handles] == ['3x3', '1x1', 'wide']
    assert [h.get_marker() for h in handles] == ['s', 'o', 'x']


@pytest.mark.parametrize('layers', [2, 32])
def test_legends_fit_into_their_figures(layers):
    pairs = [(TIED, FIRM)] * layers
    for figure in (
        plots.draw_hard(ratio_numbers.hard_numbers([snapshot(*pairs)])),
        plots.draw_layers(ratio_numbers.layer_numbers([snapshot(*pairs)])),
    ):
        figure.canvas.draw()
        box = figure.legends[0].get_window_extent()
        assert 0 <= box.x0 and box.x1 <= figure.bbox.width


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
