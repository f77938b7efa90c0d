# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Outlines of masks, exact to the pixel."""

from __future__ import annotations

import cv2
import numpy as np


def trace_outlines(mask: np.ndarray) -> tuple:
    """Closed outlines of a mask, along the edges of its pixels.

    A pixel is in the mask exactly if an odd number of outlines encloses it.
    Pixels that touch only at a corner belong to different parts.

    Args:
        mask (np.ndarray): bool (H, W).

    Returns:
        tuple[list, list]: The outlines of the parts and those of the holes
        in them. Each is a list of whole-numbered corners (x, y), where the
        pixel at (row, column) is the square from (column, row) to
        (column + 1, row + 1).
    """
    edges = _edges(mask)
    parts, holes = [], []
    while edges:
        corners = _take_loop(edges)
        (parts if _signed_area(corners) > 0 else holes).append(corners)
    return parts, holes


def trace_single_polygon(mask: np.ndarray) -> list:
    """One polygon around all of a mask, through the centres of its pixels.

    For programs that fill a polygon including its outline and know neither
    holes nor parts, such as Cityscapes' own. Holes and further parts are
    joined to the first part by a cut along the shortest way.

    Args:
        mask (np.ndarray): bool (H, W), not empty.

    Returns:
        list[list[int]]: Corners [x, y] in whole pixels.
    """
    # Index 0 is dropped: it picks the contours out of OpenCV's result.
    contours = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )[0]
    polygon, *others = (contour[:, 0] for contour in contours)
    for other in others:
        dx, dy = np.moveaxis(polygon[:, None] - other, -1, 0)
        distances = dx * dx + dy * dy
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        detour = np.concatenate(
            [other[there:], other[: there + 1], polygon[here : here + 1]]
        )
        polygon = np.insert(polygon, here + 1, detour, axis=0)
    return _drop_straight(polygon).tolist()


def _drop_straight(polygon: np.ndarray) -> np.ndarray:
    """Drop the points at which a polygon goes straight on."""
    before = polygon - np.roll(polygon, 1, axis=0)
    after = np.roll(polygon, -1, axis=0) - polygon
    turns = (before != after).any(axis=1)
    return polygon[turns] if turns.any() else polygon


def _edges(mask: np.ndarray) -> dict:
    """Unit edges between mask and rest, the mask on their right hand.

    Returns:
        dict: Edges (x, y, dx, dy) as keys, in a fixed order: a set that
        remembers it.
    """
    padded = np.pad(mask, 1)
    edges = {}
    for dx, dy, x_offset, y_offset in (
        (1, 0, 0, 0),  # along the top of a pixel
        (0, 1, 1, 0),  # down its right side
        (-1, 0, 1, 1),  # back along the bottom
        (0, -1, 0, 1),  # up its left side
    ):
        # The pixel across the edge, on the left hand, is at (dy, -dx).
        across = np.roll(padded, (dx, -dy), axis=(0, 1))
        rows, columns = np.nonzero((padded & ~across)[1:-1, 1:-1])
        xs, ys = columns + x_offset, rows + y_offset
        edges.update(
            ((x, y, dx, dy), None) for x, y in zip(xs.tolist(), ys.tolist())
        )
    return edges


def _take_loop(edges: dict) -> list:
    """Take one closed loop out of the edges and return its corners."""
    first = edge = next(iter(edges))
    corners = []
    while True:
        del edges[edge]
        x, y, dx, dy = edge
        x, y = x + dx, y + dy
        # Where two pixels touch at a corner, the right turn stays on ours.
        for turn in ((-dy, dx), (dx, dy), (dy, -dx)):
            edge = (x, y, *turn)
            if edge in edges or edge == first:
                break
        if turn != (dx, dy):
            corners.append((x, y))
        if edge == first:
            return corners


def _signed_area(corners: list) -> float:
    """Shoelace formula: positive for clockwise on the screen."""
    x, y = np.array(corners).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
