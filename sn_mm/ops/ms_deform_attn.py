# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Multi-scale deformable attention (Zhu et al., Deformable DETR, Eq. 3).

mmcv calls it on GPUs; on the CPU it has its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import fill_gradients


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attention of every query to points on every level.

    Args:
        value: (N, positions of all levels, heads, channels).
        spatial_shapes: (levels, 2), height and width.
        level_start_index: not used: levels follow each other.
        sampling_locations: (N, queries, heads, levels, points, 2), x and y
            as shares of width and height.
        attention_weights: (N, queries, heads, levels, points).
        im2col_step: not used.

    Returns:
        (N, queries, heads * channels).
    """
    return _attend(
        value, spatial_shapes, sampling_locations, attention_weights
    )


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients; see :func:`ms_deform_attn_forward`."""
    fill_gradients(
        lambda v, at, w: _attend(v, spatial_shapes, at, w),
        (value, sampling_locations, attention_weights),
        grad_output,
        (grad_value, grad_sampling_loc, grad_attn_weight),
    )


def _attend(value, spatial_shapes, locations, weights) -> Tensor:
    """The attention, differentiable; half precision in float32."""
    given, dtype = value.dtype, torch.float32
    if given == torch.float64:
        dtype = given
    value, locations, weights = (
        t.to(dtype) for t in (value, locations, weights)
    )
    n, _, heads, channels = value.shape
    queries, levels = locations.shape[1], locations.shape[3]
    # a head is an image of its own
    value = value.permute(0, 2, 3, 1).flatten(0, 1)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).reshape(
        n * heads, 1, queries, levels, -1
    )
    sizes = [(int(h), int(w)) for h, w in spatial_shapes.tolist()]
    maps = value.split([h * w for h, w in sizes], dim=-1)
    output = value.new_zeros(n * heads, channels, queries)
    for level, (pixels, size) in enumerate(zip(maps, sizes)):
        found = F.grid_sample(
            pixels.unflatten(-1, size),
            grids[:, :, level],
            align_corners=False,
        )
        output = output + (found * weights[:, :, :, level]).sum(-1)
    output = output.view(n, heads * channels, queries).transpose(1, 2)
    return output.to(given)
