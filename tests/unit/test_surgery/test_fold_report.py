# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from sn_mm.surgery.fold_report import FoldedLayer, FoldReport

LAYERS = [
    FoldedLayer(
        'backbone.sn1', 'backbone', 'bn', 'bn', 'into backbone.conv1', '', 9, 7
    ),
    FoldedLayer('neck.sn', 'neck', 'bn', 'bn', 'into neck.conv', '', 3, 0),
    FoldedLayer('neck.b', 'neck', 'in', 'ln', 'stays SN', 'two kinds', 0, 0),
]


def test_counts_in_a_line():
    assert FoldReport(LAYERS).summary() == (
        '3 norm layers: 2 into the convolution before, 1 stays SN; '
        '12 numbers of parameters and buffers less, 7 map elements of the '
        'example image no longer normalized'
    )
    assert FoldReport(LAYERS, 'not run').summary().endswith('; not run')


def test_a_line_for_each_layer():
    lines = FoldReport(LAYERS).table().splitlines()
    assert lines[0].split()[:3] == ['layer', 'component', 'mean/var']
    (line,) = (x for x in lines if x.startswith('neck.b'))
    assert 'in/ln' in line and line.endswith('two kinds')
    assert lines[-1] == FoldReport(LAYERS).summary()
