# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Scenes: scanned digits placed, overlapping, on cluttered backgrounds.

Every scene is drawn from its own random stream, seeded with (seed, split,
index), so it depends neither on the other scenes nor on their number. All
lengths scale with the short side of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .backgrounds import draw_background
from .scans import SCAN_SIZE, SPLITS, digit_scans

# Heights as shares of the short side: 34 to 72 and 12 to 18 of 160 pixels.
_DIGIT_HEIGHT = (0.21, 0.45)
_CROWD_DIGIT_HEIGHT = (0.075, 0.115)

# How many digits are tried; some find no place, or are hidden too much.
_DIGIT_COUNT = (3, 7)
_DIGIT_COUNT_BESIDE_CROWD = (1, 4)

# How digits are distorted.
_MAX_TURN = 15  # degrees
_MAX_SHEAR = 0.1
_STRETCH = (0.85, 1.25)  # of the width

# Of the 10 rows of a scan with its margin, the digit itself fills 8.
_INK_SHARE_OF_SCAN = 0.8

# A digit of which less is to be seen is left out of the scene altogether:
# no fragment is in a picture without being in its annotations.
_MIN_VISIBLE_SHARE = 0.5
_MIN_VISIBLE_AREA = 0.005  # of the square over the short side

# Boxes overlap up to these intersections over unions.
_MAX_BOX_IOU = 0.25
_MAX_CROWD_BOX_IOU = 0.1
_PLACING_ATTEMPTS = 25

# Ink is opaque above this value of the scan, with a soft edge around it.
_INK_THRESHOLD = 0.4
_INK_SOFTNESS = 0.12

# Digits are brighter than the background under them, by at least this of 1,
# and differ from digits that they overlap by this distance in RGB.
_MIN_CONTRAST = 0.3
_MIN_COLOR_DISTANCE = 0.4


@dataclass(frozen=True)
class Instance:
    """One annotated object of a scene.

    Attributes:
        label (int): The digit, 0 to 9.
        mask (np.ndarray): bool (H, W), the pixels to be seen.
        full (np.ndarray): bool (H, W), the pixels it would have with nothing
            in front of it.
        crowd (bool): Whether this is a region full of small digits of one
            class that are not annotated one by one.
    """

    label: int
    mask: np.ndarray
    full: np.ndarray
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        image (np.ndarray): uint8 RGB, shape (H, W, 3).
        instances (tuple[Instance]): From back to front.
    """

    image: np.ndarray
    instances: tuple


@dataclass(frozen=True)
class _Cutout:
    """Digits to be painted together: alpha per digit, and the mask."""

    label: int
    alphas: tuple
    mask: np.ndarray
    crowd: bool = False


def render_scene(seed: int, split: str, index: int, size: tuple) -> Scene:
    """Render one scene.

    Of every 20 scenes, one is empty and two have a crowd; which ones is
    decided by the index, so that small data sets have them too.

    Args:
        seed (int): Seed of the data set, not negative.
        split (str): 'train' or 'val'; they share no scan.
        index (int): Position in the split.
        size (tuple[int, int]): Height and width in pixels.

    Returns:
        Scene: The picture and its instances, from back to front.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    stream = np.random.SeedSequence([seed, SPLITS.index(split), index])
    rng = np.random.default_rng(stream)
    image = draw_background(rng, split, size).astype(np.float32) / 255
    cutouts = []
    if index % 20 != 5:
        has_crowd = index % 10 == 2
        if has_crowd:
            cutouts.append(_place_crowd(rng, split, size))
        counts = _DIGIT_COUNT_BESIDE_CROWD if has_crowd else _DIGIT_COUNT
        for _ in range(rng.integers(*counts, endpoint=True)):
            _place_digit(rng, split, size, cutouts)
    instances, cutouts = _hide_and_drop(cutouts, size)
    image = _paint(rng, image, cutouts)
    return Scene(_photograph(rng, image), instances)


def _place_digit(
    rng: np.random.Generator, split: str, size: tuple, cutouts: list
) -> None:
    """Append a digit in front of the others, if a place is found for it."""
    height = rng.uniform(*_DIGIT_HEIGHT) * min(size)
    label = int(rng.integers(10))
    scan = _pick_scan(rng, split, label)
    boxes = [_box(cutout.mask) for cutout in cutouts]
    limits = [
        _MAX_CROWD_BOX_IOU if cutout.crowd else _MAX_BOX_IOU
        for cutout in cutouts
    ]
    margin = 0.35 * height
    high = np.array(size) - margin
    for _ in range(_PLACING_ATTEMPTS):
        center = rng.uniform(margin, high)
        if boxes and rng.random() < 0.4:  # beside another, often across it
            top, left, bottom, right = boxes[rng.integers(len(boxes))]
            center = np.array((top + bottom, left + right)) / 2
            center += rng.uniform(-0.8, 0.8, size=2) * height
            center = np.clip(center, margin, high)
        alpha = _warp(rng, scan, center, height, size)
        mask = alpha > 0.5
        if mask.any() and all(
            _box_iou(_box(mask), box) <= limit
            for box, limit in zip(boxes, limits)
        ):
            cutouts.append(_Cutout(label, (alpha,), mask))
            return


def _place_crowd(rng: np.random.Generator, split: str, size: tuple) -> _Cutout:
    """A heap of small digits of one class, annotated as one region."""
    short = min(size)
    label = int(rng.integers(10))
    radii = rng.uniform(0.1, 0.17, size=2) * short
    center = rng.uniform(radii, np.array(size) - radii)
    alphas = []
    for _ in range(rng.integers(12, 21)):
        angle, distance = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        offset = distance * radii * (np.sin(angle), np.cos(angle))
        scan = _pick_scan(rng, split, label)
        height = rng.uniform(*_CROWD_DIGIT_HEIGHT) * short
        alphas.append(_warp(rng, scan, center + offset, height, size))
    ink = (np.max(alphas, axis=0) > 0.5).astype(np.uint8)
    width = 2 * round(0.04 * short) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    region = cv2.morphologyEx(ink, cv2.MORPH_CLOSE, kernel).astype(bool)
    return _Cutout(label, tuple(alphas), region, crowd=True)


def _pick_scan(rng: np.random.Generator, split: str, label: int) -> np.ndarray:
    scans = digit_scans(split)[label]
    return scans[rng.integers(len(scans))]


def _warp(
    rng: np.random.Generator,
    scan: np.ndarray,
    center: np.ndarray,
    height: float,
    size: tuple,
) -> np.ndarray:
    """Opacity, float32 (H, W), of a scan turned, sheared and put in place."""
    scale = height / (_INK_SHARE_OF_SCAN * SCAN_SIZE)
    stretch = rng.uniform(*_STRETCH)
    angle = np.deg2rad(rng.uniform(-_MAX_TURN, _MAX_TURN))
    shear = rng.uniform(-_MAX_SHEAR, _MAX_SHEAR)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    linear = scale * turn @ np.array([[stretch, shear], [0, 1]])
    middle = np.full(2, (SCAN_SIZE - 1) / 2)
    offset = np.asarray(center)[::-1] - linear @ middle
    ink = cv2.warpAffine(
        scan,
        np.column_stack([linear, offset]),
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR,
    )
    return np.clip((ink - _INK_THRESHOLD) / _INK_SOFTNESS + 0.5, 0, 1)


def _hide_and_drop(cutouts: list, size: tuple) -> tuple:
    """Find what can be seen of each, and drop those hidden too much.

    Goes from front to back; what is dropped hides nothing.

    Returns:
        tuple: Instances and their cutouts, both from back to front.
    """
    hidden = np.zeros(size, dtype=bool)
    least = _MIN_VISIBLE_AREA * min(size) ** 2
    instances, kept = [], []
    for cutout in reversed(cutouts):
        visible = cutout.mask & ~hidden
        share = visible.sum() / cutout.mask.sum()
        if share < _MIN_VISIBLE_SHARE or visible.sum() < least:
            continue
        hidden |= cutout.mask
        instances.append(
            Instance(cutout.label, visible, cutout.mask, cutout.crowd)
        )
        kept.append(cutout)
    return tuple(instances[::-1]), kept[::-1]


def _paint(
    rng: np.random.Generator, image: np.ndarray, cutouts: list
) -> np.ndarray:
    """Paint cutouts, back to front, in colours that stand out."""
    brightness = image @ _LUMA
    painted = []
    for cutout in cutouts:
        if not cutout.crowd and rng.random() < 0.6:
            image = _cast_shadow(rng, image, cutout.alphas[0])
        neighbours = [
            color for other, color in painted if (other & cutout.mask).any()
        ]
        under = brightness[cutout.mask].mean()
        for alpha in cutout.alphas:
            color = _pick_color(rng, under, neighbours)
            paint = np.clip(color * _shading(rng, image.shape), 0, 1)
            opacity = alpha[..., None] * rng.uniform(0.85, 1)
            image = image + opacity * (paint - image)
        painted.append((cutout.mask, color))
    return image


_LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)


def _pick_color(
    rng: np.random.Generator, under: float, neighbours: list
) -> np.ndarray:
    """RGB of a digit over background of brightness ``under``."""
    for _ in range(40):
        color = rng.uniform(0, 1, size=3).astype(np.float32)
        if color @ _LUMA >= under + _MIN_CONTRAST and all(
            np.linalg.norm(color - other) >= _MIN_COLOR_DISTANCE
            for other in neighbours
        ):
            return color
    return np.ones(3, dtype=np.float32)


def _shading(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """A slow change of brightness over the picture, (H, W, 1), about 1."""
    slope = rng.uniform(-0.3, 0.3, size=2)
    y = np.linspace(-0.5, 0.5, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-0.5, 0.5, shape[1], dtype=np.float32)[None]
    return (1 + slope[0] * y + slope[1] * x)[..., None].astype(np.float32)


def _cast_shadow(
    rng: np.random.Generator, image: np.ndarray, alpha: np.ndarray
) -> np.ndarray:
    short = min(alpha.shape)
    shift = rng.uniform(-0.025, 0.025, size=2) * short
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    shadow = cv2.warpAffine(alpha, move, alpha.shape[::-1])
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.012 * short)
    return image * (1 - 0.5 * shadow[..., None])


def _photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a camera adds: uneven light, blur and noise. Gives uint8."""
    image = image * _shading(rng, image.shape) * rng.uniform(0.85, 1.1)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    image += rng.normal(scale=rng.uniform(0.01, 0.03), size=image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _box(mask: np.ndarray) -> tuple:
    """Top, left, bottom, right of a mask; the last two exclusive."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def _box_iou(a: tuple, b: tuple) -> float:
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(height, 0) * max(width, 0)
    area_a, area_b = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
    return inter / (area_a + area_b - inter)
