# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Boxes, masks, label maps and captions, drawn into an enlarged picture."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .tags import place_tags

Colour = tuple[int, int, int]
_FONT_SIZE = 15
_LINE = 3
_PAD = 3
_GAP = 8
_INK = (30, 30, 30)


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings."""
    import matplotlib  # at use: it takes longer than all of sn_mm

    folder = f'{matplotlib.get_data_path()}/fonts/ttf'
    return ImageFont.truetype(f'{folder}/DejaVuSans.ttf', _FONT_SIZE)


def colour_of(label: int, palette: Sequence | None) -> Colour:
    """Of the palette, or one of many that differ in hue."""
    if palette is not None and label < len(palette):
        return tuple(int(v) for v in palette[label])
    hue = label * 0.618 % 1  # neighbours far apart
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.75, 0.95))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better."""
    r, g, b = colour
    return _INK if 0.299 * r + 0.587 * g + 0.114 * b > 140 else (255,) * 3


def _size(text: str) -> tuple[int, int]:
    left, _, right, _ = font().getbbox(text)
    ascent, descent = font().getmetrics()
    return right - left + 2 * _PAD, ascent + descent + _PAD


class Canvas:
    """A picture, enlarged by a whole number, to draw into.

    Args:
        image: (H, W, 3) of RGB bytes.
        least_size: pixels that the longer side gets at least.
        alpha: opacity of masks and label maps.
    """

    def __init__(
        self, image: np.ndarray, least_size: int, alpha: float
    ) -> None:
        height, width = image.shape[:2]
        self.scale = max(1, math.ceil(least_size / max(height, width)))
        self.size = (width * self.scale, height * self.scale)
        self.alpha = alpha
        self.pixels = cv2.resize(
            image, self.size, interpolation=cv2.INTER_CUBIC
        )

    def draw_masks(self, masks: np.ndarray, colours: Sequence[Colour]) -> None:
        """Masks (n, H, W), in colour and with an outline."""
        for mask, colour in zip(masks, colours):
            large = cv2.resize(
                mask.astype(np.float32),
                self.size,
                interpolation=cv2.INTER_LINEAR,
            )
            inside = (large > 0.5).astype(np.uint8)
            self._blend(inside.astype(bool), np.array(colour))
            outline, _ = cv2.findContours(
                inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            self.pixels = np.ascontiguousarray(self.pixels)
            cv2.drawContours(self.pixels, outline, -1, colour, 2, cv2.LINE_AA)

    def draw_map(self, labels: np.ndarray, palette: Sequence | None) -> None:
        """A label map (H, W); labels without a class stay as they are."""
        large = cv2.resize(
            labels.astype(np.int32).astype(np.float32),
            self.size,
            interpolation=cv2.INTER_NEAREST,
        ).astype(np.int32)
        for label in np.unique(large):
            if 0 <= label < 255:
                colour = np.array(colour_of(int(label), palette))
                self._blend(large == label, colour)

    def _blend(self, where: np.ndarray, colour: np.ndarray) -> None:
        mixed = (1 - self.alpha) * self.pixels[where] + self.alpha * colour
        self.pixels[where] = mixed.round().astype(np.uint8)

    def draw_boxes(
        self,
        boxes: np.ndarray,
        texts: Sequence[str],
        colours: Sequence[Colour],
    ) -> None:
        """Boxes (n, 4) with a tag beside each."""
        image = Image.fromarray(self.pixels)
        draw = ImageDraw.Draw(image)
        scaled = [tuple(float(v) * self.scale for v in box) for box in boxes]
        for box, colour in zip(scaled, colours):
            draw.rectangle(_ordered(box), outline=colour, width=_LINE)
        places = place_tags(scaled, [_size(t) for t in texts], self.size)
        for place, text, colour in zip(places, texts, colours):
            draw.rectangle(_ordered(place), fill=colour)
            corner = (place[0] + _PAD, place[1] + _PAD / 2)
            draw.text(corner, text, fill=_ink_on(colour), font=font())
        self.pixels = np.array(image)


def _ordered(box: Sequence[float]) -> tuple[float, ...]:
    """Corners in the order that drawing needs, also of empty boxes."""
    x1, y1, x2, y2 = box
    return (x1, y1, max(x1, x2), max(y1, y2))


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one height in a row, a caption above each."""
    _, head = _size('x')
    parts = []
    for caption, pixels in panels:
        top = Image.new('RGB', (pixels.shape[1], head + _PAD), 'white')
        draw = ImageDraw.Draw(top)
        draw.text((_PAD, 0), caption, fill=_INK, font=font())
        parts.append(np.concatenate([np.array(top), pixels]))
        gap = np.full((parts[-1].shape[0], _GAP, 3), 255, np.uint8)
        parts.append(gap)
    return np.concatenate(parts[:-1], 1)


def with_legend(
    pixels: np.ndarray, names: Sequence[str], colours: Sequence[Colour]
) -> np.ndarray:
    """The picture above a patch of colour and a name for each class."""
    if not names:
        return pixels
    _, line = _size('x')
    width = pixels.shape[1]
    places, x, y = [], _PAD, _PAD
    for name in names:
        needed = _size(name)[0] + line + 2 * _PAD
        if x + needed > width and x > _PAD:
            x, y = _PAD, y + line + _PAD
        places.append((x, y))
        x += needed
    legend = Image.new('RGB', (width, y + line + _PAD), 'white')
    draw = ImageDraw.Draw(legend)
    for (x, y), name, colour in zip(places, names, colours):
        draw.rectangle((x, y + 2, x + line - 4, y + line - 2), fill=colour)
        draw.text((x + line + 1, y), name, fill=_INK, font=font())
    return np.concatenate([pixels, np.array(legend)])
