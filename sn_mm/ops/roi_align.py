# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RoIAlign, with mmcv's arguments.

In plain PyTorch a bin is a weighted sum of pixels, which is what
``embedding_bag`` computes: its table are the pixels of all images, one row of
channels each. The gradient is the same sum the other way round, over the bins
that a pixel is in.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .roi_sampling import (
    Geometry,
    Group,
    bilinear,
    groups,
    measure,
    positions,
    taps,
)
from .torchvision_ops import torchvision_ops

_MAX = 0  # pool_mode; else the mean
_MAX_TAPS = 2**21  # bounds the memory of indices and weights


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output``, and for the largest samples their places.

    Args:
        input: (N, C, H, W), of any float type; half precision is computed in
            float32.
        rois: (R, 5), index of the image and corners in its pixels.
        output: (R, C, aligned_height, aligned_width), filled.
        argmax_y: like output; filled with the y of the largest sample where
            ``pool_mode`` is 0, -1 for none; else not used.
        argmax_x: the same of x.
        pool_mode: 0 for the largest sample of a bin, 1 for the mean of all.

    The others, and what is raised: see :func:`~.roi_sampling.measure`.
    """
    if not output.numel():
        return
    bins = (aligned_height, aligned_width)
    x, rois = _in_working_precision(input, rois)
    geometry = measure(
        rois, len(x), bins, spatial_scale, sampling_ratio, aligned
    )
    library = torchvision_ops('roi_align')
    if pool_mode == _MAX:
        found = _largest(_table(x), geometry, bins, x.shape[2:])
        for out, value in zip((output, argmax_y, argmax_x), found):
            out.copy_(value.permute(0, 3, 1, 2))
    elif library is not None:
        output.copy_(
            library.roi_align(
                x, rois, spatial_scale, *bins, sampling_ratio, aligned
            )
        )
    else:
        values = _mean(_table(x), geometry, bins, x.shape[2:])
        output.copy_(values.permute(0, 3, 1, 2))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``grad_input``; arguments as in :func:`roi_align_forward`."""
    if not grad_output.numel():
        return
    bins, shape = (aligned_height, aligned_width), grad_input.shape
    grad, rois = _in_working_precision(grad_output, rois)
    library = torchvision_ops('_roi_align_backward')
    if pool_mode == _MAX:
        places = (argmax_y.to(grad.dtype), argmax_x.to(grad.dtype))
        grad_input.copy_(_to_places(grad, rois[:, 0].long(), *places, shape))
        return
    if library is not None:
        grad_input.copy_(
            library._roi_align_backward(
                grad,
                rois,
                spatial_scale,
                *bins,
                *shape,
                sampling_ratio,
                aligned,
            )
        )
        return
    geometry = measure(
        rois, len(grad_input), bins, spatial_scale, sampling_ratio, aligned
    )
    n, _, *size = shape
    table = _to_pixels(_table(grad), geometry, bins, (n, *size))
    grad_input.copy_(table.unflatten(0, (n, *size)).permute(0, 3, 1, 2))


def _in_working_precision(x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.to(dtype), rois.to(dtype)


def _table(x: Tensor) -> Tensor:
    """(N, C, H, W) to the pixels' rows of channels, (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _parts(geometry: Geometry, bins: tuple[int, int]) -> Iterator[Group]:
    return groups(geometry, _MAX_TAPS // (4 * bins[0] * bins[1]))


def _mean(table, geometry, bins, size) -> Tensor:
    """The mean of every bin's samples, (R, *bins, C)."""
    values = table.new_zeros(len(geometry.image), *bins, table.shape[1])
    for part in _parts(geometry, bins):
        pixels, weights = taps(geometry, part, bins, size)
        count = part.samples[0] * part.samples[1]
        sums = F.embedding_bag(
            pixels.view(-1, 4 * count),
            table,
            mode='sum',
            per_sample_weights=weights.view(-1, 4 * count) / count,
        )
        values[part.rois] = sums.view(-1, *bins, table.shape[1])
    return values


def _to_pixels(table, geometry, bins, shape: tuple[int, int, int]) -> Tensor:
    """The transpose of :func:`_mean`: a table of bins to one of pixels."""
    n, *size = shape
    grad = table.new_zeros(n * size[0] * size[1], table.shape[1])
    per_roi = bins[0] * bins[1]
    numbers = torch.arange(per_roi, device=table.device).view(1, *bins)
    for part in _parts(geometry, bins):
        pixels, weights = taps(geometry, part, bins, size)
        count = part.samples[0] * part.samples[1]
        of_tap = part.rois.view(-1, 1, 1) * per_roi + numbers
        of_tap = of_tap.view(-1, 1).expand(-1, 4 * count).flatten()
        pixels, order = pixels.flatten().sort()
        pixels, counts = pixels.unique_consecutive(return_counts=True)
        grad[pixels] += F.embedding_bag(
            of_tap[order],
            table,
            counts.cumsum(0) - counts,
            mode='sum',
            per_sample_weights=weights.flatten()[order] / count,
        )
    return grad


def _largest(table, geometry, bins, size) -> tuple[Tensor, Tensor, Tensor]:
    """The largest sample of every bin, its y and its x, each (R, *bins, C).

    Where there is none, mmcv's values: -10000 at -1, -1.
    """
    shape = (len(geometry.image), *bins, table.shape[1])
    largest = table.new_full(shape, -10000)
    at_y, at_x = table.new_full(shape, -1), table.new_full(shape, -1)
    for part in _parts(geometry, bins):
        pixels, weights = taps(geometry, part, bins, size)
        samples = F.embedding_bag(
            pixels.transpose(-3, -2).reshape(-1, 4),
            table,
            mode='sum',
            per_sample_weights=weights.transpose(-3, -2).reshape(-1, 4),
        )
        nx, ny = part.samples
        samples = samples.view(len(part.rois), *bins, ny * nx, -1)
        value, index = samples.max(dim=-2)
        y = positions(geometry, part.rois, 1, bins[0], ny)
        x = positions(geometry, part.rois, 0, bins[1], nx)
        y = y[:, :, None, :].expand(-1, -1, bins[1], -1)
        x = x[:, None, :, :].expand(-1, bins[0], -1, -1)
        largest[part.rois] = value
        at_y[part.rois] = y.gather(3, index.div(nx, rounding_mode='floor'))
        at_x[part.rois] = x.gather(3, index % nx)
    return largest, at_y, at_x


def _to_places(grad, image, at_y, at_x, shape) -> Tensor:
    """Each bin's gradient to the four pixels of its largest sample."""
    _, channels, height, width = shape
    rows, row_weights = bilinear(at_y, height)
    columns, column_weights = bilinear(at_x, width)
    plane = image.view(-1, 1, 1, 1) * channels
    plane = plane + torch.arange(channels, device=grad.device).view(-1, 1, 1)
    rows = plane[..., None] * height + rows
    pixels = rows[..., :, None] * width + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    weights = weights * ((at_y != -1) * grad)[..., None, None]
    out = grad.new_zeros(shape)
    out.view(-1).scatter_add_(0, pixels.flatten(), weights.flatten())
    return out
