# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Deformable convolution, where offsets say what it must be.

Compiled mmcv's numbers: test_agreement.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sn_mm.ops import deform_conv
from tests.utils import relative_error

PLAIN = dict(
    dH=2,
    dW=1,
    padH=1,
    padW=2,
    dilationH=1,
    dilationW=2,
    group=2,
    deformable_group=1,
)
MODULATED = dict(
    stride_h=2,
    stride_w=1,
    pad_h=1,
    pad_w=2,
    dilation_h=1,
    dilation_w=2,
    group=2,
    deformable_group=1,
)
CONV = dict(stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)


def inputs():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 4, 7, 8), torch.randn(6, 2, 3, 3)
    y = F.conv2d(x, weight, **CONV)
    return x, weight, y, x.new_zeros(2, 18, *y.shape[2:])


def forward(x, weight, offset, like):
    output = torch.empty_like(like)
    deform_conv.deform_conv_forward(
        x, weight, offset, output, None, None, **PLAIN
    )
    return output


def test_without_offsets_it_is_a_convolution(backend):
    x, weight, y, offset = inputs()
    assert relative_error(forward(x, weight, offset, y), y) < 1e-6


def test_an_offset_of_whole_pixels_is_a_shift(backend):
    """By one pixel down and two to the left, everywhere."""
    x, weight, y, offset = inputs()
    offset[:, ::2], offset[:, 1::2] = 1, -2
    moved = torch.zeros_like(x)
    moved[:, :, :-1, 2:] = x[:, :, 1:, :-2]
    inner = (..., slice(1, -1), slice(2, -2))  # away from the edges
    want = F.conv2d(moved, weight, **CONV)
    got = forward(x, weight, offset, y)
    assert relative_error(got[inner], want[inner]) < 1e-6


def test_gradients_without_offsets_are_a_convolutions(backend):
    x, weight, y, offset = inputs()
    dy = torch.randn_like(y)
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    F.conv2d(*leaves, **CONV).backward(dy)
    dx, d_offset, dw = map(torch.empty_like, (x, offset, weight))
    deform_conv.deform_conv_backward_input(
        x, offset, dy, dx, d_offset, weight, None, **PLAIN
    )
    deform_conv.deform_conv_backward_parameters(
        x, offset, dy, dw, None, None, 0.5, **PLAIN
    )
    assert relative_error(dx, leaves[0].grad) < 1e-5
    assert relative_error(dw, leaves[1].grad / 2) < 1e-5
    assert d_offset.isfinite().all() and d_offset.any()


@pytest.mark.parametrize('with_bias', [False, True])
def test_a_mask_weighs_every_tap(backend, with_bias):
    x, weight, y, offset = inputs()
    bias = torch.randn(6)
    mask = x.new_full((2, 9, *y.shape[2:]), 0.25)
    output = torch.empty_like(y)
    deform_conv.modulated_deform_conv_forward(
        x,
        weight,
        bias,
        None,
        offset,
        mask,
        output,
        None,
        with_bias,
        **MODULATED,
    )
    want = y / 4 + (bias.view(-1, 1, 1) if with_bias else 0)
    assert relative_error(output, want) < 1e-6


def test_all_gradients_of_the_modulated_one(backend):
    x, weight, y, offset = inputs()
    mask, dy = x.new_ones(2, 9, *y.shape[2:]), torch.randn_like(y)
    bias = torch.randn(6)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    F.conv2d(*leaves, **CONV).backward(dy)
    dx, dw, db, d_offset, d_mask = map(
        torch.empty_like, (x, weight, bias, offset, mask)
    )
    deform_conv.modulated_deform_conv_backward(
        x,
        weight,
        bias,
        None,
        offset,
        mask,
        None,
        dx,
        dw,
        db,
        d_offset,
        d_mask,
        dy,
        True,
        **MODULATED,
    )
    for got, leaf in zip((dx, dw, db), leaves):
        assert relative_error(got, leaf.grad) < 1e-5
    # at a mask of ones its gradient adds up to what y gets
    assert relative_error(d_mask.sum(), (dy * y).sum()) < 1e-4
