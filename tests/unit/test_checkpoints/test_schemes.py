# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``sn://`` and ``bn2sn://`` through mmengine's loader."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from mmengine.runner import CheckpointLoader
from torch import nn

from sn_mm import SN
from sn_mm.checkpoints.layouts import Layout
from sn_mm.checkpoints.schemes import SchemeCheckpoint
from sn_mm.utils.errors import CheckpointError

RESNET = dict(prefix='', depth=18, ratios=3, sparse=False, fc=5)


@pytest.fixture
def public(tmp_path):
    gen = torch.Generator().manual_seed(0)
    state = {
        e.public: torch.rand(e.shape, generator=gen)
        for e in Layout('resnet', RESNET).entries
    }
    torch.save(state, tmp_path / 'sn.pth')
    return tmp_path / 'sn.pth', state


def load(text):
    return CheckpointLoader.load_checkpoint(text, 'cpu')


def test_names_of_a_backbone_unless_asked_for_others(public):
    path, state = public
    plain = load(f'sn://{path}')
    assert plain.fill is not None and plain['meta'] == {}
    assert torch.equal(
        plain['state_dict']['conv1.weight'], state['conv1.weight']
    )
    assert 'sn1.weight' in plain['state_dict']
    assert not any(k.startswith('fc') for k in plain['state_dict'])
    for to, key in (
        ('model', 'backbone.sn1.weight'),
        ('torchvision', 'bn1.weight'),
        ('mmpretrain', 'head.fc.weight'),
    ):
        chosen = load(f'sn://{path}?to={to}')
        # who chose the names does not want them matched with a model
        assert chosen.fill is None and key in chosen['state_dict']
    with pytest.raises(CheckpointError, match="has no option 'ratios'"):
        load(f'sn://{path}?ratios=bn')


@pytest.mark.parametrize('scheme', ['bn2sn', 'bn2norm'])
def test_a_bn_file_fills_a_model_that_it_is_loaded_into(tmp_path, scheme):
    source = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    source[1].weight.data.uniform_(0.5, 2)
    source[1].running_var.uniform_(0.5, 2)
    torch.save(source.state_dict(), tmp_path / 'bn.pth')
    content = load(f'{scheme}://{tmp_path / "bn.pth"}?ratios=bn')
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SN(4)).eval()
    report = content.fill(model)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(model(x), source(x), atol=1e-4, rtol=1e-4)
    assert not report.missing
    # and as a plain dict it has SN's names
    assert '1.mean_weight' in content['state_dict']


def test_metadata_stays_with_moved_tensors():
    state = OrderedDict(a=torch.ones(1))
    state._metadata = {'a': dict(unbiased=True)}
    moved = SchemeCheckpoint(state, 'meta')
    assert moved['state_dict']['a'].is_meta
    assert moved['state_dict']._metadata == {'a': dict(unbiased=True)}
    kept = SchemeCheckpoint(state, lambda storage, place: storage)
    assert kept['state_dict'] is state
