# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A file is taken by the module that it fits, not by the parts of it."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.model import BaseModule, Sequential
from torch import nn

import sn_mm
from sn_mm.patches import leave_starts_to_parents

FILL = dict(type='Constant', layer='Conv2d', val=7.0)


class Block(BaseModule):
    def __init__(self, norm, init_cfg):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = norm(4)


class Net(BaseModule):
    """As mmpretrain's RepVGG: blocks get what the network was given."""

    def __init__(self, norm, init_cfg=None, of_blocks=None):
        super().__init__(init_cfg)
        self.blocks = Sequential(
            *(Block(norm, of_blocks or init_cfg) for _ in range(3))
        )


@pytest.fixture
def bn_file(tmp_path):
    torch.manual_seed(0)
    net = Net(nn.BatchNorm2d)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
    file = tmp_path / 'bn.pth'
    torch.save(net.state_dict(), file)
    return net, file


def pretrained(file):
    return dict(type='Pretrained', checkpoint=f'bn2sn://{file}')


@pytest.mark.parametrize('several', [False, True])
def test_blocks_that_were_handed_the_start(bn_file, several):
    net, file = bn_file
    start = pretrained(file)
    model = Net(sn_mm.SN, [FILL, start] if several else start)
    model.init_weights()
    for ours, theirs in zip(model.blocks, net.blocks):
        assert torch.equal(ours.conv.weight, theirs.conv.weight)
        assert torch.equal(ours.norm.weight, theirs.norm.weight)
        assert torch.equal(ours.norm.running_mean, theirs.norm.running_mean)


def test_copies_of_the_start_count_as_the_same(bn_file):
    net, file = bn_file
    start = pretrained(file)
    model = Net(sn_mm.SN, start, copy.deepcopy([FILL, start]))
    model.init_weights()
    assert torch.equal(model.blocks[2].conv.weight, net.blocks[2].conv.weight)
    assert model.blocks[0].init_cfg == [FILL]


def test_a_start_of_a_childs_own_stays(bn_file):
    net, file = bn_file
    torch.save(net.blocks[0].state_dict(), file)
    model = Net(sn_mm.SN, FILL, pretrained(file))
    model.init_weights()
    for block in model.blocks:
        assert torch.equal(block.conv.weight, net.blocks[0].conv.weight)


def test_other_files_are_left_to_mmengine(bn_file):
    net, file = bn_file
    start = dict(type='Pretrained', checkpoint=str(file))
    model = Net(nn.BatchNorm2d, start)
    model.init_weights()
    assert model.blocks[0].init_cfg == start
    assert torch.equal(model.blocks[1].conv.weight, net.blocks[1].conv.weight)


def test_once_is_enough():
    function = BaseModule.init_weights
    leave_starts_to_parents()
    assert BaseModule.init_weights is function
