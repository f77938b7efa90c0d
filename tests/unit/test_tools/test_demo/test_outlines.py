# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as mask_api

from demo.outlines import trace_outlines, trace_single_polygon

RING = np.array(
    [[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=bool
)


def fill(outlines, size):
    filled = np.zeros(size, dtype=bool)
    for outline in outlines:
        polygon = [float(v) for xy in outline for v in xy]
        rle = mask_api.frPyObjects([polygon], *size)[0]
        filled ^= mask_api.decode(rle).astype(bool)
    return filled


def test_ring_and_pixel_at_its_corner():
    parts, holes = trace_outlines(RING)
    assert [set(part) for part in parts] == [
        {(0, 0), (3, 0), (3, 3), (0, 3)},
        {(3, 3), (4, 3), (4, 4), (3, 4)},
    ]
    assert [set(hole) for hole in holes] == [{(1, 1), (2, 1), (2, 2), (1, 2)}]


@pytest.mark.parametrize('density', [0.1, 0.5, 0.9])
def test_odd_number_of_outlines_encloses_the_mask(density):
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 14, size=(100, 2)):
        mask = rng.random(size) < density
        parts, holes = trace_outlines(mask)
        np.testing.assert_array_equal(fill(parts + holes, size), mask)


def test_empty_mask_has_no_outline():
    assert trace_outlines(np.zeros((3, 4), dtype=bool)) == ([], [])


@pytest.mark.parametrize('part', ['whole', 'ring', 'pixel'])
def test_single_polygon_fills_to_the_mask(part):
    mask = np.zeros((40, 50), dtype=bool)
    if part == 'pixel':
        mask[7, 9] = True
    else:
        mask[5:35, 10:40] = True
    if part == 'ring':
        mask[12:20, 15:30] = False
        mask[25:30, 20:24] = False
    image = Image.new('1', mask.shape[::-1])
    polygon = trace_single_polygon(mask)
    if len(polygon) > 1:  # PIL draws no polygon of one point
        ImageDraw.Draw(image).polygon([tuple(p) for p in polygon], fill=1)
        np.testing.assert_array_equal(np.array(image), mask)
    else:
        assert polygon == [[9, 7]]
