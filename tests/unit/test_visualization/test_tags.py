# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from sn_mm.visualization.tags import place_tags

IMAGE = (200, 100)


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


@pytest.mark.parametrize(
    'box',
    [
        (50, 40, 90, 80),  # room above
        (50, 5, 90, 60),  # at the upper edge
        (150, 40, 195, 80),  # wider than what is right of it
        (0, 0, 40, 40),
        (160, 60, 200, 100),
        (0, 2, 100, 98),  # room at the right alone
    ],
)
def test_a_tag_does_not_cover_its_box(box):
    (tag,) = place_tags([box], [(60, 15)], IMAGE)
    assert overlap(tag, box) == 0
    assert 0 <= tag[0] and tag[2] <= 200 and 0 <= tag[1] and tag[3] <= 100
    assert tag[2] - tag[0] == 60 and tag[3] - tag[1] == 15


def test_a_box_as_large_as_the_picture():
    """There is no room beside it; the tag is in the picture all the same."""
    (tag,) = place_tags([(0, 0, 200, 100)], [(60, 15)], IMAGE)
    assert tag[0] >= 0 and tag[1] >= 0 and tag[2] <= 200 and tag[3] <= 100


def test_tags_keep_clear_of_other_boxes_and_of_each_other():
    boxes = [(50, 40, 90, 60), (50, 62, 90, 90), (52, 40, 92, 60)]
    tags = place_tags(boxes, [(40, 15)] * 3, IMAGE)
    for i, tag in enumerate(tags):
        assert sum(overlap(tag, box) for box in boxes) == 0
        assert sum(overlap(tag, other) for other in tags[:i]) == 0
