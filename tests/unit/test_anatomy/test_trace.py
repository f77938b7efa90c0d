# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Receptive fields and map sizes, against gradients and known networks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from sn_mm import SN2d
from sn_mm.anatomy import find_norms
from sn_mm.anatomy.trace import trace_norms
from tests.builders import (
    build,
    faster_rcnn,
    resnet,
    retinanet_config,
    segmentor_config,
)

# The textbook's receptive fields of ResNet-50.
RESNET50 = {
    'sn1': 7,
    'layer1.0.sn1': 11,
    'layer1.2.sn3': 35,
    'layer2.0.downsample.1': 35,
    'layer2.3.sn2': 91,
    'layer3.5.sn3': 267,
    'layer4.0.sn2': 299,
    'layer4.2.sn3': 427,
}


def traced(model: nn.Module, size: int = 256) -> dict:
    return trace_norms(model, find_norms(model), size)


def field_by_gradient(model: nn.Module, name: str, size: int) -> int:
    """Extent of the pixels that one position in the middle depends on.

    Norms are taken out, and all weights and pixels are positive, so that no
    path cancels another.
    """
    model = copy.deepcopy(model)
    model.eval()
    seen = {}
    for other, norm in find_norms(model).items():
        norm.forward = lambda x, other=other: seen.setdefault(other, x) * 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_().add_(1e-3)
    model.double()
    x = torch.rand(1, 3, size, size, dtype=torch.double, requires_grad=True)
    model(x)
    y = seen[name]
    y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()
    return int(rows.max() - rows.min()) + 1


def test_resnet50():
    seen = traced(resnet(depth=50))
    assert {n: seen[n].receptive_field for n in RESNET50} == RESNET50
    assert seen['layer4.2.sn2'].kernel == (3, 3)
    assert seen['layer4.2.sn2'].positions == 64


class Odd(nn.Module):
    """Dilation, transposed and asymmetric kernels, pooling, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 5, padding=4, dilation=2)
        self.down = nn.Conv2d(4, 4, 3, 2, 1)
        self.wide = nn.Conv2d(4, 4, (3, 1), padding=(1, 0))
        self.up = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.norms = nn.ModuleList(SN2d(4) for _ in range(7))

    def forward(self, x):
        x = first = self.norms[0](self.conv(x))
        x = self.norms[1](nn.functional.avg_pool2d(x, 3, 2, 1))
        x = self.norms[2](self.down(x))
        x = self.norms[3](self.wide(x)) + x
        x = self.norms[4](nn.functional.avg_pool2d(x, 2, 1))
        x = self.norms[5](nn.functional.interpolate(x, scale_factor=2))
        x = nn.functional.interpolate(x, first.shape[2:], mode='nearest')
        return self.norms[6](torch.cat([x, first], 1)[:, :4])


@pytest.mark.parametrize('index', range(5))
def test_agrees_with_gradients(index):
    torch.manual_seed(0)
    model = Odd()
    name = f'norms.{index}'
    assert traced(model)[name].receptive_field == field_by_gradient(
        model, name, 128
    )


@pytest.mark.parametrize('name', ['layer2.0.sn1', 'layer3.1.sn2'])
@pytest.mark.parametrize('options', [{}, dict(deep_stem=True)])
def test_residual_networks_agree_with_gradients(name, options):
    model = resnet(**options)
    assert traced(model)[name].receptive_field == field_by_gradient(
        model, name, 256
    )


def test_resized_maps():
    up = nn.Sequential(
        nn.Conv2d(3, 4, 3, 4, 1),
        nn.Upsample(scale_factor=2, mode='nearest'),
        nn.Conv2d(4, 4, 3, padding=1),
        SN2d(4),
        nn.Upsample(scale_factor=2, mode='bilinear'),
        SN2d(4),
    )
    seen = traced(up)
    # 3 pixels, then two more positions that are 2 pixels apart
    assert seen['3'].receptive_field == 7
    assert seen['5'].receptive_field == 9


def test_detector():
    seen = traced(faster_rcnn())
    # of its own level and of those above, which come down to it
    assert seen['neck.lateral_convs.0.sn'].receptive_field == 43
    assert seen['neck.fpn_convs.0.sn'].receptive_field > 400
    box = seen['roi_head.bbox_head.shared_convs.0.sn']
    assert box.receptive_field is None and box.positions == 49


def test_head_that_serves_all_levels():
    model = build('mmdet', retinanet_config().model)
    seen = traced(model)['bbox_head.cls_convs.0.sn']
    assert seen.positions == 4  # of the smallest level, 2 x 2
    assert seen.elements == 16 * sum(4**k for k in range(1, 6))
    assert seen.source == 'bbox_head.cls_convs.0.conv'


@pytest.mark.filterwarnings('ignore')
def test_segmentor():
    seen = traced(build('mmseg', segmentor_config().model))
    pooled = seen['decode_head.psp_modules.0.1.sn']
    assert pooled.positions == 1
    assert pooled.receptive_field == math.inf
    assert seen['auxiliary_head.convs.0.sn'].receptive_field < 1000


def test_the_layers_are_as_before():
    model = faster_rcnn()
    forwards = [vars(m).get('forward') for m in model.modules()]
    hooks = [len(m._forward_hooks) for m in model.modules()]
    traced(model)
    assert forwards == [vars(m).get('forward') for m in model.modules()]
    assert hooks == [len(m._forward_hooks) for m in model.modules()]


def test_half_precision_and_other_inputs():
    module = ConvModule(5, 8, 3, norm_cfg=dict(type='SN')).double()
    assert traced(module)['sn'].receptive_field == 3
