# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Deformable attention against a loop over its formula."""

import torch

from sn_mm.ops.ms_deform_attn import (
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)

SHAPES = torch.tensor([[3, 4], [2, 2]])
N, HEADS, CHANNELS, QUERIES, POINTS = 2, 2, 3, 2, 2


def inputs():
    gen = torch.Generator().manual_seed(0)

    def rand(*shape):
        return torch.rand(shape, generator=gen, dtype=torch.float64)

    value = rand(N, 16, HEADS, CHANNELS)
    # some outside of the map
    locations = 1.4 * rand(N, QUERIES, HEADS, 2, POINTS, 2) - 0.2
    weights = rand(N, QUERIES, HEADS, 2, POINTS)
    return value, locations, weights


def sample(pixels, x, y):
    """Bilinear, with zeros around; pixels (H, W, C), x and y in pixels."""
    total = 0
    x0, y0 = int(x.floor()), int(y.floor())
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
                near = (1 - (x - column).abs()) * (1 - (y - row).abs())
                total = total + near * pixels[row, column]
    return total


def by_loops(value, locations, weights):
    out = torch.zeros(N, QUERIES, HEADS, CHANNELS, dtype=torch.float64)
    for n, q, h in torch.cartesian_prod(
        *(torch.arange(k) for k in (N, QUERIES, HEADS))
    ):
        start = 0
        for level, (height, width) in enumerate(SHAPES.tolist()):
            pixels = value[n, start : start + height * width, h]
            pixels = pixels.view(height, width, CHANNELS)
            start += height * width
            for p in range(POINTS):
                x, y = locations[n, q, h, level, p]
                found = sample(pixels, x * width - 0.5, y * height - 0.5)
                out[n, q, h] += weights[n, q, h, level, p] * found
    return out.flatten(2)


def test_is_the_formula():
    tensors = inputs()
    value, locations, weights = tensors
    got = ms_deform_attn_forward(value, SHAPES, None, locations, weights, 64)
    torch.testing.assert_close(got, by_loops(*tensors))


def test_gradients_are_the_formulas():
    leaves = [t.requires_grad_() for t in inputs()]
    dy = torch.randn(N, QUERIES, HEADS * CHANNELS, dtype=torch.float64)
    want = torch.autograd.grad(by_loops(*leaves), leaves, dy)
    value, locations, weights = (t.detach() for t in leaves)
    got = [torch.empty_like(t) for t in (value, locations, weights)]
    ms_deform_attn_backward(
        value, SHAPES, None, locations, weights, dy, *got, 64
    )
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)
