# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Calls of mmcv's operators: inputs, and what comes out of mmcv.ops.

A case is a function of no arguments that returns arrays by name. It calls
mmcv's own functions, whose operators are the compiled ones or the stand-in:
``make_arrays.py`` stores what the compiled ones gave.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from mmcv.ops import (
    batched_nms,
    deform_conv2d,
    modulated_deform_conv2d,
    nms,
    roi_align,
    soft_nms,
)
from torch import Tensor

ROI_OPTIONS = dict(
    aligned=[True, False],
    sampling_ratio=[0, 1, 2, 3],
    pool_mode=['avg', 'max'],
    output_size=[(4, 5), (2, 3)],
    spatial_scale=[1.0, 0.25],
)


def boxes(seed: int, number: int, size: float = 60) -> Tensor:
    """Boxes of all kinds, about half of them a little outside (0, size)."""
    random = np.random.RandomState(seed)
    centres = random.uniform(-0.1 * size, 1.1 * size, (number, 2))
    sizes = random.uniform(0, 0.6 * size, (number, 2))
    sizes[::7] = 0  # points
    sizes[1::11, 0] = 0  # without a width
    both = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1)
    both[2::5] = both[2::5].round()
    return torch.from_numpy(both.astype(np.float32))


def rois(seed: int, number: int, size: float, images: int = 2) -> Tensor:
    """RoIs; the last ones the whole image, and far outside of it."""
    found = boxes(seed, number, size)
    found[-1] = torch.tensor([0, 0, size, size])
    found[-2] = torch.tensor([3 * size, 0, 4 * size, size])
    found[-3] = torch.tensor([-size, -size, 0, 0])
    index = torch.arange(number) % images
    return torch.cat((index[:, None].float(), found), dim=1)


def features(seed: int, *shape: int) -> Tensor:
    values = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def scores(seed: int, number: int) -> Tensor:
    """Scores of which no two are equal."""
    order = np.random.RandomState(seed).permutation(number) + 1
    return torch.from_numpy((order / (number + 1)).astype(np.float32))


# --- non-maximum suppression ------------------------------------------------


def nms_case(seed, number, threshold, offset=0, **options) -> dict:
    dets, kept = nms(
        boxes(seed, number),
        scores(seed + 1, number),
        threshold,
        offset,
        **options,
    )
    return dict(dets=dets, kept=kept)


def nms_threshold_met() -> dict:
    """Overlaps of exactly a half, a third, and three tenths, as float32."""
    shifts = torch.tensor([0.0, 10, 15, 20, 40, 53, 66])[:, None]
    found = torch.cat((shifts, shifts * 0, shifts + 30, shifts * 0 + 13), 1)
    result = {}
    for threshold in (0.5, 1 / 3, 0.3, 0.2, 0.0):
        dets, kept = nms(found, scores(3, 7), threshold)
        result[f'kept_{threshold:.2f}'] = kept
    return result


def nms_inverted() -> dict:
    """Boxes whose second corner lies before the first."""
    found = boxes(5, 40)
    found[::3] = found[::3].roll(2, dims=1)
    dets, kept = nms(found, scores(6, 40), 0.3)
    return dict(dets=dets, kept=kept)


def nms_equal() -> dict:
    """One box many times: one stays, whichever."""
    dets, _ = nms(torch.ones(30, 4) * torch.arange(4.0), torch.ones(30), 0.5)
    return dict(dets=dets)


def nms_ties() -> dict:
    """Equal scores of boxes far apart, each with a worse one near it."""
    found = boxes(8, 20, 10) + 40 * torch.arange(20.0)[:, None]
    found[:, 2:] += 1
    both = torch.cat((found, found + 0.01))
    high = torch.cat((torch.full((20,), 0.9), torch.full((20,), 0.5)))
    dets, kept = nms(both, high, 0.5)
    return dict(dets=dets.sort(0)[0], kept=kept.sort()[0])


def nms_of_classes(classes: int, **options) -> dict:
    number = 120
    labels = torch.arange(number) % classes
    config = dict(type='nms', iou_threshold=0.4, **options)
    dets, kept = batched_nms(
        boxes(10, number), scores(11, number), labels, config
    )
    return dict(dets=dets, kept=kept)


def soft_nms_case(method, offset) -> dict:
    found = boxes(12, 80)
    found[:, 2:] += 1  # mmcv's scores become NaN at two points
    dets, kept = soft_nms(
        found,
        scores(13, 80),
        iou_threshold=0.3,
        sigma=0.5,
        min_score=0.05,
        method=method,
        offset=offset,
    )
    return dict(dets=dets, kept=kept)


# --- RoIAlign ---------------------------------------------------------------


def roi_align_case(
    number=11, channels=2, size=(9, 13), dtype=torch.float32, **options
) -> dict:
    scale = options['spatial_scale']
    x = features(20, 2, channels, *size).to(dtype).requires_grad_()
    found = rois(21, number, size[1] / scale) if number else torch.empty(0, 5)
    if options['aligned']:  # mmcv refuses what rounding made negative
        found[:, 3:] = torch.maximum(found[:, 3:], found[:, 1:3])
    y = roi_align(
        x,
        found.to(dtype),
        options['output_size'],
        scale,
        options['sampling_ratio'],
        options['pool_mode'],
        options['aligned'],
    )
    y.backward(features(22, *y.shape).to(dtype))
    return dict(y=y.detach(), x_grad=x.grad)


# --- deformable convolution -------------------------------------------------


def deform_conv_case(
    modulated: bool,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    deform_groups: int,
    bias: bool,
    whole: bool = False,
) -> dict:
    """With ``whole``, the offsets are whole numbers, half of them 0."""
    x = features(30, 2, 4, 9, 8)
    weight = features(31, 6, 4 // groups, 3, 2)
    out = [
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip((9, 8), (3, 2))
    ]
    offset = 2 * features(32, 2, deform_groups * 12, *out)
    if whole:
        offset = offset.round() * (torch.arange(out[1]) % 2)
    inputs = dict(x=x, offset=offset, weight=weight)
    if modulated:
        inputs['mask'] = features(33, 2, deform_groups * 6, *out).sigmoid()
    if bias:
        inputs['bias'] = features(34, 6)
    for tensor in inputs.values():
        tensor.requires_grad_()
    numbers = (stride, padding, dilation, groups, deform_groups)
    if modulated:
        y = modulated_deform_conv2d(
            x, offset, inputs['mask'], weight, inputs.get('bias'), *numbers
        )
    else:
        y = deform_conv2d(x, offset, weight, *numbers)
    y.backward(features(35, *y.shape))
    grads = {f'{name}_grad': t.grad for name, t in inputs.items()}
    return dict(y=y.detach(), **grads)


def _combinations(options: dict) -> list[dict]:
    return [
        dict(zip(options, values))
        for values in itertools.product(*options.values())
    ]


def _name(prefix: str, options: dict) -> str:
    parts = (f'{k}={v}' for k, v in options.items())
    return ' '.join((prefix, *parts)).replace(', ', 'x')


def all_cases() -> dict:
    """Every case by its name."""
    cases = {}

    def add(prefix, function, **options):
        cases[_name(prefix, options)] = functools.partial(function, **options)

    for threshold, offset in itertools.product((0.1, 0.5, 0.7, 1), (0, 1)):
        add(
            'nms',
            nms_case,
            seed=1,
            number=300,
            threshold=threshold,
            offset=offset,
        )
    for number in (0, 1, 2, 700):
        add('nms', nms_case, seed=2, number=number, threshold=0.6)
    add(
        'nms',
        nms_case,
        seed=4,
        number=90,
        threshold=0.5,
        score_threshold=0.3,
        max_num=20,
    )
    for function in (nms_threshold_met, nms_inverted, nms_equal, nms_ties):
        add(function.__name__, function)
    for classes in (1, 6):
        add('batched_nms', nms_of_classes, classes=classes)
    add('batched_nms', nms_of_classes, classes=6, class_agnostic=True)
    add('batched_nms', nms_of_classes, classes=6, split_thr=50)
    for method in ('naive', 'linear', 'gaussian'):
        for offset in (0, 1):
            add('soft_nms', soft_nms_case, method=method, offset=offset)

    for options in _combinations(ROI_OPTIONS):
        add('roi_align', roi_align_case, **options)
    usual = {name: values[0] for name, values in ROI_OPTIONS.items()}
    add('roi_align', roi_align_case, **usual, size=(1, 1))
    add('roi_align', roi_align_case, **usual, size=(1, 40))
    add('roi_align', roi_align_case, **usual, number=0)
    add('roi_align', roi_align_case, **usual, dtype=torch.float64)

    for modulated, stride, groups, bias in itertools.product(
        (False, True), (1, 2), (1, 2), (False, True)
    ):
        if bias and not modulated:
            continue
        add(
            'deform_conv',
            deform_conv_case,
            modulated=modulated,
            stride=stride,
            padding=stride - 1,
            dilation=3 - stride,
            groups=groups,
            deform_groups=3 - groups,
            bias=bias,
        )
    for modulated in (False, True):
        add(
            'deform_conv',
            deform_conv_case,
            modulated=modulated,
            stride=1,
            padding=1,
            dilation=1,
            groups=1,
            deform_groups=1,
            bias=False,
            whole=True,
        )
    return cases
