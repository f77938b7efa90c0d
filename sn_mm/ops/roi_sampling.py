# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where RoIAlign looks: the samples of each bin, pixels and their weights.

RoIAlign (He et al., Mask R-CNN, Sec. 3) samples a feature map at regular
points of every bin, bilinearly. A sample is four pixels and their weights,
each the product of one weight for the row and one for the column: so the two
directions are worked out apart (:func:`taps_along`), then crossed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """RoIs on a feature map; pairs are (x, y)."""

    image: Tensor  # (R,) index into the batch
    start: Tensor  # (R, 2) in pixels of the map
    bins: Tensor  # (R, 2) size of a bin
    samples: Tensor  # (R, 2) samples in a bin; 0 or less: none


class Group(NamedTuple):
    """RoIs with the same number of samples in a bin."""

    rois: Tensor  # (r,) indices of the RoIs
    samples: tuple[int, int]  # in x, in y


def measure(
    rois: Tensor,
    images: int,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Geometry:
    """Lay RoIs over a feature map.

    Args:
        rois: (R, 5), index of the image and corners x1, y1, x2, y2 in pixels
            of the image; float32 or float64. The arithmetic is mmcv's, step
            by step, since the number of samples and what counts as outside
            jump where a rounding differs.
        images: images in the batch.
        output_size: bins in y and in x.
        spatial_scale: pixels of the map per pixel of the image.
        sampling_ratio: samples in a bin and direction; 0 or less for as many
            as a bin has pixels.
        aligned: shift by half a pixel, so that pixel centres are what
            coordinates mean; else a RoI is at least one pixel wide and high.

    Raises:
        ValueError: for a RoI of an image that is not there, or that is not
            finite.
        RuntimeError: for a RoI of negative size, with ``aligned``, as mmcv.
    """
    image = rois[:, 0].long()
    shift = 0.5 if aligned else 0.0
    scale = torch.tensor(spatial_scale, dtype=torch.float32).item()
    corners = rois[:, 1:] * scale - shift
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if rois.device.type == 'cpu':
        _check(rois, image, images, size if aligned else None)
    if not aligned:
        size = size.clamp(min=1)
    bins = size / size.new_tensor(output_size[::-1])
    if sampling_ratio > 0:
        samples = torch.full_like(bins, sampling_ratio)
    else:
        samples = bins.float().ceil()
    return Geometry(image, start, bins, samples.long())


def _check(rois, image, images: int, size: Tensor | None) -> None:
    """What would read other memory than the map's, and what mmcv refuses."""
    wrong = ~rois.isfinite().all(1) | (image < 0) | (image >= images)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f'RoI {row} is {rois[row].tolist()}: it must be finite and of '
            f'one of the {images} images'
        )
    if size is not None and (size < 0).any():
        row = int((size < 0).any(1).nonzero()[0])
        raise RuntimeError(
            f'RoI {row}, {rois[row].tolist()}, has a negative size, which '
            'RoIAlign with aligned=True does not take'
        )


def groups(geometry: Geometry, max_samples: int) -> Iterator[Group]:
    """RoIs by their number of samples in a bin, those without left out.

    A group has no more than ``max_samples`` samples in one of its bins, all
    RoIs together.
    """
    samples, of_roi = geometry.samples.unique(dim=0, return_inverse=True)
    order = of_roi.argsort(stable=True)
    counts = torch.bincount(of_roi, minlength=len(samples)).tolist()
    for (x, y), rois in zip(samples.tolist(), order.split(counts)):
        if x > 0 and y > 0:
            for part in rois.split(max(1, max_samples // (x * y))):
                yield Group(part, (x, y))


def taps(
    geometry: Geometry,
    group: Group,
    output_size: tuple[int, int],
    map_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Pixels and weights of every bin.

    Returns:
        Indices into the (N, H, W) pixels of the batch, and weights that are
        not yet divided by the number of samples: both of shape
        (r, bins in y, bins in x, samples in y, 2, samples in x, 2).
    """
    rois = group.rois
    (nx, ny), (height, width) = group.samples, map_size
    rows, row_weights = taps_along(
        geometry, rois, 1, output_size[0], ny, height
    )
    columns, column_weights = taps_along(
        geometry, rois, 0, output_size[1], nx, width
    )
    rows = rows + (geometry.image[rois] * height).view(-1, 1, 1, 1)
    rows = (rows * width)[:, :, None, :, :, None, None]
    row_weights = row_weights[:, :, None, :, :, None, None]
    columns = columns[:, None, :, None, None]
    return rows + columns, row_weights * column_weights[:, None, :, None, None]


def taps_along(
    geometry: Geometry,
    rois: Tensor,
    axis: int,
    bins: int,
    samples: int,
    size: int,
) -> tuple[Tensor, Tensor]:
    """:func:`bilinear` of every sample in one direction (0: x, 1: y)."""
    return bilinear(positions(geometry, rois, axis, bins, samples), size)


def positions(
    geometry: Geometry, rois: Tensor, axis: int, bins: int, samples: int
) -> Tensor:
    """Coordinates of every sample in one direction, (r, bins, samples)."""
    start = geometry.start[rois, axis].view(-1, 1, 1)
    step = geometry.bins[rois, axis].view(-1, 1, 1)
    number = torch.arange(bins, device=step.device, dtype=step.dtype)
    within = torch.arange(samples, device=step.device, dtype=step.dtype)
    return start + number.view(-1, 1) * step + (within + 0.5) * step / samples


def bilinear(at: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Both pixels, and their weights, at coordinates along one direction.

    Between -1 and the border, and ``size`` and the border, the border's
    pixel holds; beyond that weights are 0.

    Returns:
        Indices and weights, one dimension of size 2 more than ``at``.
    """
    counts = (at >= -1) & (at <= size)
    at = at.clamp(0, size - 1)
    low = at.floor()
    fraction = at - low
    weights = torch.stack((1 - fraction, fraction), dim=-1)
    low = low.long()
    pixels = torch.stack((low, (low + 1).clamp(max=size - 1)), dim=-1)
    return pixels, weights * counts[..., None]
