# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Blocks that would read a norm of ours as a batch norm."""

from __future__ import annotations

import warnings

import pytest
from torch import nn

from sn_mm import SN, convert_norm
from sn_mm.anatomy.deployment import deployments, warn_of_deployment


class Block(nn.Module):
    """A convolution and a norm of which ``method`` makes one."""

    def __init__(self, method, norm, takes=()):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), norm
        names = {'maps': lambda maps: maps, 'nothing': lambda: None}
        setattr(self, method, names['maps' if takes else 'nothing'])


def test_methods_by_modules():
    model = nn.ModuleDict(
        dict(
            repvgg=Block('switch_to_deploy', SN(8)),
            timm=Block('reparameterize', SN(8)),
            large=nn.Sequential(Block('merge_kernel', SN(8))),
            levit=Block('fuse', SN(8)),
            batch=Block('switch_to_deploy', nn.BatchNorm2d(8)),
            maps=Block('fuse', SN(8), takes='maps'),
            far=Block('fuse', nn.Sequential(SN(8))),
            other=Block('forward_', SN(8)),
        )
    )
    assert deployments(model) == {
        'repvgg': 'switch_to_deploy',
        'timm': 'reparameterize',
        'large.0': 'merge_kernel',
        'levit': 'fuse',
    }


def test_one_warning_whoever_sees_it_first():
    model = nn.Sequential(Block('fuse', nn.BatchNorm2d(8)))
    with pytest.warns(UserWarning, match="fuse of 1 modules .'0', ...."):
        convert_norm(model, 'SN')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warn_of_deployment(model)
