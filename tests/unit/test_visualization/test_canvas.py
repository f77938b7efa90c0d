# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is drawn where, in pixels."""

import numpy as np
import pytest

from sn_mm.visualization.canvas import (
    Canvas,
    colour_of,
    font,
    side_by_side,
    with_legend,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def canvas(height=20, width=30, least=60, alpha=0.5, value=100):
    image = np.full((height, width, 3), value, np.uint8)
    return Canvas(image, least, alpha)


@pytest.mark.parametrize('least, scale', [(10, 1), (30, 1), (31, 2), (100, 4)])
def test_enlarged_by_a_whole_number(least, scale):
    made = canvas(least=least)
    assert made.scale == scale
    assert made.pixels.shape == (20 * scale, 30 * scale, 3)


def test_colours():
    assert colour_of(1, [RED, BLUE]) == BLUE
    others = [colour_of(i, [RED]) for i in range(1, 9)]
    assert len(set(others)) == 8
    assert all(0 <= v <= 255 for c in others for v in c)
    assert font().size == 15


def test_label_maps_are_blended_and_ignored_labels_left():
    made = canvas(alpha=0.25)
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 15:] = 255
    made.draw_map(labels, [RED])
    assert made.pixels[5, 5].tolist() == [139, 75, 75]
    assert made.pixels[5, -5].tolist() == [100] * 3


def test_masks_have_an_outline():
    made = canvas(alpha=0.5)
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 5:15, 5:25] = True
    made.draw_masks(mask, [RED])
    assert made.pixels[20, 30].tolist() == [178, 50, 50]  # inside
    assert made.pixels[2, 2].tolist() == [100] * 3
    row = made.pixels[20, :, 0].astype(int)
    assert row.max() > 240  # the outline is of the full colour


def test_boxes_and_their_tags():
    made = canvas(100, 120, least=1)
    box = np.array([[20.0, 40, 80, 90]])
    made.draw_boxes(box, ['cat 0.9'], [BLUE])
    assert made.pixels[90, 50].tolist() == list(BLUE)  # the lower edge
    assert made.pixels[65, 50].tolist() == [100] * 3  # nothing inside
    changed = (made.pixels != 100).any(-1)
    changed[38:93, 18:83] = False
    assert changed.sum() > 200  # the tag beside it


def test_boxes_without_an_extent():
    canvas().draw_boxes(np.array([[5.0, 5, 2, 2]]), ['x'], [RED])
    canvas().draw_boxes(np.zeros((0, 4)), [], [])


def test_panels_side_by_side():
    one, other = (
        np.full((10, w, 3), v, np.uint8) for w, v in ((60, 1), (40, 2))
    )
    made = side_by_side([('truth', one), ('found', other)])
    assert made.shape[1] == 60 + 8 + 40
    assert made[-1, 0, 0] == 1 and made[-1, -1, 0] == 2
    assert (made[:, 60:68] == 255).all()
    caption = made[:-10, :60]
    assert caption.min() < 100 and caption.max() == 255


def test_a_legend_takes_as_many_lines_as_it_needs():
    picture = np.zeros((10, 200, 3), np.uint8)
    assert with_legend(picture, [], []) is picture
    one = with_legend(picture, ['a'], [RED])
    many = with_legend(picture, ['a long name'] * 6, [BLUE] * 6)
    assert 10 < one.shape[0] < many.shape[0]
    assert (one[10:] == RED).all(-1).any()
    assert (one[:10] == 0).all()
