# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Deformable convolutions (Dai et al., Eq. 2; modulated: Zhu et al., Eq. 1).

Functions with mmcv's arguments: tensors by position, of which the buffers
``columns`` and ``ones`` are not used; numbers by name. Inputs are
(N, C, H, W); offsets (N, deformable_group * taps * 2, H', W'), y before x;
masks (N, deformable_group * taps, H', W').

In plain PyTorch the input is sampled where the kernel's taps look, bilinearly
and with zeros around it, and the samples are multiplied with the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import fill_gradients
from .torchvision_ops import torchvision_ops


def deform_conv_forward(
    input, weight, offset, output, columns, ones, **numbers
) -> None:
    """Fill ``output``."""
    output.copy_(_convolve(input, offset, weight, _Options.plain(numbers)))


def deform_conv_backward_input(
    input,
    offset,
    grad_output,
    grad_input,
    grad_offset,
    weight,
    columns,
    **numbers,
) -> None:
    """Fill the gradients of the input and of the offsets."""
    options = _Options.plain(numbers)
    fill_gradients(
        lambda x, o: _convolve(x, o, weight, options),
        (input, offset),
        grad_output,
        (grad_input, grad_offset),
    )


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, scale, **numbers
) -> None:
    """Fill the gradient of the weights, multiplied by ``scale``.

    The convolution is linear in them, so any weights will do.
    """
    options = _Options.plain(numbers)
    fill_gradients(
        lambda w: _convolve(input, offset, w, options) * scale,
        (torch.zeros_like(grad_weight),),
        grad_output,
        (grad_weight,),
    )


def modulated_deform_conv_forward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    output,
    columns,
    with_bias,
    **numbers,
) -> None:
    """Fill ``output``; ``bias`` is read with ``with_bias`` only."""
    options = _Options.modulated(numbers)
    bias = bias if with_bias else None
    output.copy_(_convolve(input, offset, weight, options, mask, bias))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    with_bias,
    **numbers,
) -> None:
    """Fill all gradients; ``grad_bias`` with ``with_bias`` only."""
    options = _Options.modulated(numbers)
    inputs = (input, offset, weight, mask)
    grads = (grad_input, grad_offset, grad_weight, grad_mask)
    if with_bias:
        inputs, grads = (*inputs, bias), (*grads, grad_bias)
    fill_gradients(
        lambda x, o, w, m, b=None: _convolve(x, o, w, options, m, b),
        inputs,
        grad_output,
        grads,
    )


class _Options(NamedTuple):
    """A convolution's numbers; pairs are (y, x)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int

    @classmethod
    def plain(cls, of: dict) -> _Options:
        """From the names that mmcv gives them without a mask."""
        return cls(
            (of['dH'], of['dW']),
            (of['padH'], of['padW']),
            (of['dilationH'], of['dilationW']),
            of['group'],
            of['deformable_group'],
        )

    @classmethod
    def modulated(cls, of: dict) -> _Options:
        """From the names that mmcv gives them with a mask."""
        return cls(
            (of['stride_h'], of['stride_w']),
            (of['pad_h'], of['pad_w']),
            (of['dilation_h'], of['dilation_w']),
            of['group'],
            of['deformable_group'],
        )


def _convolve(x, offset, weight, options, mask=None, bias=None) -> Tensor:
    """The convolution, differentiable; half precision in float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, offset, weight = x.to(dtype), offset.to(dtype), weight.to(dtype)
    mask = None if mask is None else mask.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if torchvision_ops('deform_conv2d') is not None:
        from torchvision.ops import deform_conv2d

        # torchvision has a slope where a tap is just outside; mmcv has none
        _, inside = _look_at(x, offset, weight.shape[2:], options)
        inside = inside.unsqueeze(3).expand(-1, -1, -1, 2, -1, -1)
        inside = inside.reshape(offset.shape)
        offset = offset.where(inside, offset.detach())
        return deform_conv2d(x, offset, weight, bias, *options[:3], mask=mask)
    n, channels = x.shape[:2]
    out_size = offset.shape[2:]
    samples = _sample(x, offset, weight.shape[2:], options)
    if mask is not None:
        mask = mask.reshape(n * options.offset_groups, 1, *samples.shape[2:])
        samples = samples * mask
    # (N, groups, channels of a group * taps, positions)
    samples = samples.reshape(n, options.groups, -1, out_size[0] * out_size[1])
    matrix = weight.reshape(options.groups, -1, samples.shape[2])
    out = (matrix @ samples).reshape(n, -1, *out_size)
    return out if bias is None else out + bias.view(-1, 1, 1)


def _sample(x, offset, kernel_size, options: _Options) -> Tensor:
    """The input under every tap.

    A sample is a weighted sum of four pixels, which is what ``embedding_bag``
    computes.

    Returns:
        (N * offset_groups, C / offset_groups, taps, H' * W').
    """
    n, channels, height, width = x.shape
    planes, channels = (
        n * options.offset_groups,
        channels // options.offset_groups,
    )
    at, inside = _look_at(x, offset, kernel_size, options)
    rows, row_weights = _corners(at[:, :, :, 0], inside, height)
    columns, column_weights = _corners(at[:, :, :, 1], inside, width)
    rows = rows + height * torch.arange(planes, device=x.device).view(
        -1, 1, 1, 1, 1, 1
    )
    pixels = rows[..., :, None] * width + columns[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    table = x.reshape(planes, channels, -1).transpose(1, 2)
    samples = F.embedding_bag(
        pixels.view(-1, 4),
        table.reshape(-1, channels),
        mode='sum',
        per_sample_weights=weights.view(-1, 4),
    )
    taps = kernel_size[0] * kernel_size[1]
    return samples.view(planes, taps, -1, channels).permute(0, 3, 1, 2)


def _look_at(x, offset, kernel_size, options) -> tuple[Tensor, Tensor]:
    """Where every tap looks, y before x, and whether it sees the input there.

    Returns:
        (N * offset_groups, *kernel_size, 2, H', W'), and the same without 2.
    """
    out_size = offset.shape[2:]
    at = offset.reshape(-1, *kernel_size, 2, *out_size)
    rows, columns = (
        _looks_at(axis, kernel_size[axis], out_size[axis], options).to(x)
        for axis in (0, 1)
    )
    y = at[:, :, :, 0] + rows.view(-1, 1, rows.shape[1], 1)
    x_at = at[:, :, :, 1] + columns.view(1, -1, 1, columns.shape[1])
    height, width = x.shape[2:]
    inside = (y > -1) & (y < height) & (x_at > -1) & (x_at < width)
    return torch.stack((y, x_at), dim=3), inside


def _corners(at: Tensor, inside: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Both pixels, and their weights, at coordinates along one direction.

    At a whole number, where the slope jumps, the derivative is the one
    towards the next pixel, as mmcv's is: a network whose offsets start at 0
    has whole numbers only.

    Returns:
        Indices and weights, one dimension of size 2 more than ``at``.
    """
    at = at.where(inside, torch.zeros_like(at))
    low = at.detach().floor()
    fraction = at - low
    pixels = torch.stack((low, low + 1), dim=-1)
    weights = torch.stack((1 - fraction, fraction), dim=-1)
    counts = (pixels >= 0) & (pixels < size) & inside[..., None]
    return pixels.clamp(0, size - 1).long(), weights * counts


def _looks_at(axis: int, taps: int, out: int, options: _Options) -> Tensor:
    """Where every tap looks without an offset, (taps, outputs)."""
    tap = torch.arange(taps) * options.dilation[axis]
    at = torch.arange(out) * options.stride[axis] - options.padding[axis]
    return tap[:, None] + at
