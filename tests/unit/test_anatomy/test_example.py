# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One pass through all parts of a model, which stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sn_mm import SN2d
from sn_mm.anatomy.example import ExampleError, image_channels, run_example
from tests.builders import build, faster_rcnn, resnet, segmentor_config


def test_channels_of_the_image():
    """Those of the first convolution; 3 where there is none."""
    assert image_channels(nn.Sequential(nn.ReLU(), nn.Conv2d(5, 2, 3))) == 5
    assert image_channels(nn.ConvTranspose2d(7, 2, 3)) == 7
    assert image_channels(nn.ReLU()) == 3

    class Focus(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(12, 2, 3)

    assert image_channels(nn.Sequential(Focus(), nn.Conv2d(2, 2, 1))) == 3


@pytest.mark.filterwarnings('ignore')
def test_parts_that_only_training_runs():
    """A detector's RoI heads, and a segmentor's auxiliary head."""
    for model, name in (
        (faster_rcnn(), 'roi_head.bbox_head.fc_cls'),
        (build('mmseg', segmentor_config().model), 'auxiliary_head.conv_seg'),
    ):
        seen = []
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda *args, seen=seen: seen.append(1))
        run_example(model, 64)
        assert seen, name


def test_a_backbone_gives_its_outputs():
    (outputs,) = run_example(resnet(), 64)
    assert [tuple(y.shape[1:]) for y in outputs] == [
        (8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)
    ]


def test_the_model_is_as_before():
    model = faster_rcnn(
        dict(type='BN'), norm_eval=False, frozen_stages=-1
    ).train()
    model.backbone.bn1.eval()
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    limit = model.rpn_head.test_cfg.max_per_img
    torch.manual_seed(3)
    run_example(model, 64)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))
    assert modes == [m.training for m in model.modules()]
    assert model.rpn_head.test_cfg.max_per_img == limit
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_model_that_does_not_run():
    model = nn.Sequential(SN2d(8), nn.Linear(8, 8)).train()
    with pytest.raises(
        ExampleError, match='Sequential does not run on an .*256 x 256'
    ):
        run_example(model)
    assert model[0].training
