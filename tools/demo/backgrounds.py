# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Textured, cluttered backgrounds."""

from __future__ import annotations

import cv2
import numpy as np

from .scans import photos


def draw_background(
    rng: np.random.Generator, split: str, size: tuple
) -> np.ndarray:
    """Draw a background: photograph, texture, then clutter on top.

    Args:
        rng (np.random.Generator): The only source of randomness.
        split (str): 'train' or 'val'; they use disjoint parts of the photos.
        size (tuple[int, int]): Height and width in pixels.

    Returns:
        np.ndarray: uint8 RGB, shape (H, W, 3).
    """
    texture = _noise_texture(rng, size)
    if rng.random() < 0.65:
        share = rng.uniform(0.55, 0.95)
        picture = share * _photo_crop(rng, split, size)
        picture += (1 - share) * texture
    else:
        picture = texture
    # Rather dark and with less contrast than the digits, which are brighter.
    contrast = rng.uniform(0.4, 0.7)
    picture = (picture - picture.mean()) * contrast + rng.uniform(0.2, 0.45)
    picture = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return _add_clutter(rng, picture)


def _photo_crop(
    rng: np.random.Generator, split: str, size: tuple
) -> np.ndarray:
    """Random crop of a photo, flipped and recoloured, float32 in [0, 1]."""
    candidates = photos(split)
    photo = candidates[rng.integers(len(candidates))]
    height, width = size
    largest = min(photo.shape[0] / height, photo.shape[1] / width)
    zoom = largest * rng.uniform(0.45, 0.95)
    crop_h = max(1, int(height * zoom))
    crop_w = max(1, int(width * zoom))
    top = rng.integers(photo.shape[0] - crop_h + 1)
    left = rng.integers(photo.shape[1] - crop_w + 1)
    crop = photo[top : top + crop_h, left : left + crop_w]
    crop = crop[:, :: rng.choice((-1, 1)), rng.permutation(3)]
    crop = cv2.resize(
        np.ascontiguousarray(crop),
        (width, height),
        interpolation=cv2.INTER_LINEAR,
    )
    gains = rng.uniform(0.8, 1.2, size=3)
    return (crop / 255 * gains).astype(np.float32)


def _noise_texture(rng: np.random.Generator, size: tuple) -> np.ndarray:
    """Smooth noise at several scales, and at times stripes; about [0, 1]."""
    height, width = size
    picture = np.broadcast_to(
        rng.uniform(0.2, 0.8, size=3), (height, width, 3)
    ).astype(np.float32)
    for cells, amplitude in ((2, 0.15), (6, 0.1), (16, 0.06), (40, 0.04)):
        # Colour varies slowly; the fine grain is mostly grey.
        grid = rng.normal(size=(cells, cells, 1)) + 0.5 * rng.normal(
            size=(cells, cells, 3)
        )
        picture += amplitude * cv2.resize(
            grid.astype(np.float32),
            (width, height),
            interpolation=cv2.INTER_CUBIC,
        )
    if rng.random() < 0.3:
        angle = rng.uniform(0, np.pi)
        period = rng.uniform(0.04, 0.15) * min(size)
        y, x = np.mgrid[:height, :width]
        along = x * np.cos(angle) + y * np.sin(angle)
        stripes = np.sin(2 * np.pi * along / period)
        picture += 0.08 * stripes[..., None].astype(np.float32)
    return picture


def _add_clutter(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Draw see-through lines, rings, ellipses and boxes on a picture."""
    height, width = picture.shape[:2]
    short = min(height, width)
    for _ in range(rng.integers(3, 9)):
        layer = picture.copy()
        x, y = (int(v) for v in rng.integers((width, height)))
        a, b = (int(v) for v in rng.uniform(0.04, 0.25, size=2) * short)
        angle = float(rng.uniform(0, 180))
        color = tuple(float(v) for v in rng.integers(0, 160, size=3))
        thin = max(1, round(float(rng.uniform(0.006, 0.025)) * short))
        kind = rng.choice(('line', 'ring', 'ellipse', 'box'))
        if kind == 'line':
            far = (x + 3 * a * rng.choice((-1, 1)), y + 3 * b)
            far = tuple(int(v) for v in far)
            cv2.line(layer, (x, y), far, color, thin, cv2.LINE_AA)
        elif kind == 'box':
            corners = cv2.boxPoints(((x, y), (2 * a, 2 * b), angle))
            corners = np.rint(corners).astype(np.int32)
            cv2.fillPoly(layer, [corners], color, cv2.LINE_AA)
        else:
            thickness = thin if kind == 'ring' else -1
            axes = (max(a, 1), max(b, 1))
            cv2.ellipse(
                layer,
                (x, y),
                axes,
                angle,
                0,
                360,
                color,
                thickness,
                cv2.LINE_AA,
            )
        opacity = float(rng.uniform(0.2, 0.65))
        picture = cv2.addWeighted(layer, opacity, picture, 1 - opacity, 0)
    return picture
