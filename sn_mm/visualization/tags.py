# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where the label of a box goes: beside what it names, not on top of it."""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


def place_tags(
    boxes: Sequence[Box],
    sizes: Sequence[tuple[float, float]],
    image_size: tuple[float, float],
) -> list[Box]:
    """A place for the tag of each box, next to its edges.

    Above the box if there is room, else below or at its side: wherever it
    covers the least of boxes and of other tags.

    Args:
        boxes: all that are drawn.
        sizes: width and height of each one's tag.
        image_size: width and height.
    """
    placed: list[Box] = []
    for box, (width, height) in zip(boxes, sizes):
        options = _options(box, width, height)
        inside = [_moved_inside(o, image_size) for o in options]
        costs = [_cost(o, boxes, placed) for o in inside]
        placed.append(inside[costs.index(min(costs))])
    return placed


def _options(box: Box, width: float, height: float) -> list[Box]:
    """Places that touch the box, the usual ones first."""
    x1, y1, x2, y2 = box
    corners = [
        (x1, y1 - height),
        (x2 - width, y1 - height),
        (x1, y2),
        (x2 - width, y2),
        (x2, y1),
        (x1 - width, y1),
        (x2, y2 - height),
        (x1 - width, y2 - height),
    ]
    return [(x, y, x + width, y + height) for x, y in corners]


def _moved_inside(tag: Box, image_size: tuple[float, float]) -> Box:
    x1, y1, x2, y2 = tag
    dx = min(0, image_size[0] - x2) if x1 >= 0 else -x1
    dy = min(0, image_size[1] - y2) if y1 >= 0 else -y1
    return (x1 + dx, y1 + dy, x2 + dx, y2 + dy)


def _cost(tag: Box, boxes: Sequence[Box], placed: Sequence[Box]) -> float:
    """Pixels that it covers; those of other tags count fourfold."""
    covered = sum(_overlap(tag, box) for box in boxes)
    return covered + 4 * sum(_overlap(tag, other) for other in placed)


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
