# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Samples of bins, their pixels and weights, by hand."""

import pytest
import torch

from sn_mm.ops.roi_sampling import (
    bilinear,
    groups,
    measure,
    positions,
    taps,
)

ROIS = torch.tensor([[0, 4.0, 2, 12, 6], [1, 0, 0, 2, 2]])


def test_rois_on_the_map():
    """At half of the image's size, two bins each way."""
    found = measure(ROIS, 2, (2, 2), 0.5, 0, True)
    assert found.image.tolist() == [0, 1]
    assert found.start.tolist() == [[1.5, 0.5], [-0.5, -0.5]]
    assert found.bins.tolist() == [[2, 1], [0.5, 0.5]]
    # as many samples as a bin has pixels
    assert found.samples.tolist() == [[2, 1], [1, 1]]
    old = measure(ROIS, 2, (2, 2), 0.5, 3, False)
    assert old.start.tolist() == [[2, 1], [0, 0]]
    assert old.samples.tolist() == [[3, 3], [3, 3]]
    # at least one pixel
    assert measure(0 * ROIS, 2, (1, 1), 1.0, 1, False).bins.tolist() == [
        [1, 1],
        [1, 1],
    ]


@pytest.mark.parametrize(
    'row, error',
    [
        ([2.0, 0, 0, 1, 1], ValueError),
        ([-1.0, 0, 0, 1, 1], ValueError),
        ([0.0, float('nan'), 0, 1, 1], ValueError),
        ([0.0, 5, 0, 1, 1], RuntimeError),
    ],
)
def test_what_would_read_other_memory(row, error):
    rois = torch.cat([ROIS, torch.tensor([row])])
    with pytest.raises(error, match='RoI 2'):
        measure(rois, 2, (2, 2), 1.0, 2, True)


def test_where_samples_lie():
    geometry = measure(ROIS, 2, (2, 2), 0.5, 2, True)
    x = positions(geometry, torch.tensor([0]), 0, 2, 2)
    assert x.tolist() == [[[2.0, 3.0], [4.0, 5.0]]]


def test_pixels_and_weights_along_a_line():
    at = torch.tensor([-1.5, -0.5, 0.25, 2.75, 3.5, 4.5])
    pixels, weights = bilinear(at, 4)
    assert pixels.tolist() == [[0, 1]] * 3 + [[2, 3]] + [[3, 3]] * 2
    first, second = weights.unbind(-1)
    assert first.tolist() == [0, 1, 0.75, 0.25, 1, 0]
    assert second.tolist() == [0, 0, 0.25, 0.75, 0, 0]


def test_rois_are_grouped_by_their_samples():
    rois = torch.tensor(
        [[0, 0.0, 0, 4, 2], [0, 0, 0, 2, 2], [0, 1, 1, 5, 3], [0, 1, 1, 1, 2]]
    )
    geometry = measure(rois, 1, (1, 1), 1.0, 0, True)
    found = {g.samples: g.rois.tolist() for g in groups(geometry, 1000)}
    assert found == {(2, 2): [1], (4, 2): [0, 2]}  # the last has none
    parts = [g.rois.tolist() for g in groups(geometry, 8)]
    assert parts == [[1], [0], [2]]


def test_taps_add_up_to_the_samples():
    """On a map whose pixels are their own index."""
    geometry = measure(ROIS, 2, (2, 2), 0.5, 2, True)
    (group,) = groups(geometry, 1000)
    pixels, weights = taps(geometry, group, (2, 2), (5, 7))
    assert pixels.shape == weights.shape == (2, 2, 2, 2, 2, 2, 2)
    values = (pixels * weights).sum((-3, -1))[0, 0, 1]
    # rows 0.75 and 1.25 of bin 0, columns 4 and 5 of bin 1
    want = 7 * torch.tensor([[0.75], [1.25]]) + torch.tensor([4.0, 5.0])
    torch.testing.assert_close(values, want)
    assert (pixels[1] >= 35).all()  # of the second image
