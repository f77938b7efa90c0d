# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``init_cfg`` with our schemes, and with every other checkpoint."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import save_checkpoint
from torch import nn

from sn_mm.checkpoints import CheckpointError
from sn_mm.patches.pretrained_init import PretrainedSN
from tests.builders import BN_CFG, SN_CFG, resnet


class Part(BaseModule):
    def __init__(self, **init):
        super().__init__(dict(type='Pretrained', **init))
        self.body = nn.Linear(2, 2)


def test_it_is_mmengines_under_the_same_name():
    assert WEIGHT_INITIALIZERS.get('Pretrained') is PretrainedSN
    assert issubclass(PretrainedSN, PretrainedInit)


def test_other_checkpoints_are_left_to_mmengine(tmp_path):
    source = nn.Linear(2, 2)
    state = {f'part.body.{k}': v for k, v in source.state_dict().items()}
    file = str(tmp_path / 'x.pth')
    save_checkpoint(dict(state_dict=state), file)
    part = Part(checkpoint=file, prefix='part')
    part.init_weights()
    assert torch.equal(part.body.weight, source.weight)


def test_a_start_from_bn_fills_the_backbone(tmp_path):
    source = resnet(norm_cfg=BN_CFG)
    state = {f'backbone.{k}': v for k, v in source.state_dict().items()}
    file = str(tmp_path / 'bn.pth')
    save_checkpoint(dict(state_dict=state), file)
    checkpoint = f'bn2sn://{file}'
    init = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone')
    model = resnet(norm_cfg=SN_CFG, init_cfg=init)
    model.init_weights()
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    assert torch.equal(model.sn1.weight, source.bn1.weight)


def test_a_prefix_that_nothing_has_is_an_error(tmp_path):
    file = str(tmp_path / 'bn.pth')
    state = resnet(norm_cfg=BN_CFG).state_dict()
    save_checkpoint(dict(state_dict=state), file)
    init = PretrainedSN(checkpoint=f'bn2sn://{file}', prefix='neck')
    model = resnet(norm_cfg=SN_CFG)
    before = model.conv1.weight.clone()
    with pytest.raises(CheckpointError, match='neck|no tensor of the file'):
        init(model)
    assert torch.equal(model.conv1.weight, before)
