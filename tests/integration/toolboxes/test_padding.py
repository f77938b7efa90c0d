# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What padding does to a picture's features, as docs/sn_or_syncsn.md says."""

import pytest
import torch
from mmdet.models import ResNet
from torch.nn import functional as F

import sn_mm  # noqa: F401  (registers the layers)

NORMS = {
    'SN': dict(type='SN'),
    'SN of IN and LN': dict(type='SN', statistics=('in', 'ln')),
    'GN': dict(type='GN', num_groups=32),
    'BN': dict(type='BN'),
}
SIZE, PADDED = (160, 224), (240, 320)


@torch.no_grad()
def changes(norm_cfg):
    """Relative change of each map, away from the edge of the padding.

    A picture alone, and padded with zeros as beside a larger one.
    """
    torch.manual_seed(0)
    model = ResNet(18, norm_cfg=norm_cfg, frozen_stages=-1, norm_eval=False)
    model.eval()
    noise = torch.randn(1, 3, 10, 14, generator=torch.manual_seed(1))
    x = F.interpolate(noise, size=SIZE, mode='bicubic')
    padded = torch.zeros(1, 3, *PADDED)
    padded[..., : SIZE[0], : SIZE[1]] = x
    found = []
    for alone, beside in zip(model(x), model(padded)):
        # what an edge changes, it changes with any norm
        h, w = (n * 7 // 8 for n in alone.shape[2:])
        a, b = alone[..., :h, :w], beside[..., :h, :w]
        found.append(float((a - b).norm() / a.norm()))
    return found


@pytest.mark.parametrize('name', ['SN', 'SN of IN and LN', 'GN'])
def test_statistics_of_a_picture_see_its_padding(name):
    finest, *_ = changes(NORMS[name])
    assert 0.1 < finest < 1


def test_running_statistics_do_not():
    finest, *_ = changes(NORMS['BN'])
    assert finest < 1e-3
