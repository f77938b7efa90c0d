# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Filling a model from a public file: names, parts, refusals.

Whole released networks are in tests/integration/checkpoints.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm import SN
from sn_mm.anatomy.starts import noted_start
from sn_mm.checkpoints import load_pretrained
from sn_mm.checkpoints.layouts import Layout
from sn_mm.checkpoints.load import read_bn_state
from sn_mm.utils.errors import CheckpointError

DECODER = dict(ratios=3, dim=4, inputs=[6, 0], num_classes=2)


class Head(nn.Module):
    """A decoder as mmseg has it, with what the loader looks at."""

    def __init__(self, classes=2, dim=4, unbiased=True):
        super().__init__()
        block = nn.Module()
        block.conv = nn.Conv2d(6, dim, 3, bias=False)
        block.sn = SN(dim, unbiased=unbiased)
        self.convs = nn.ModuleList([block])
        self.conv_seg = nn.Conv2d(dim, classes, 1)


def model(**options):
    return nn.ModuleDict(dict(decode_head=Head(**options)))


@pytest.fixture
def file(tmp_path):
    """A public decoder of random numbers, and its tensors."""
    gen = torch.Generator().manual_seed(0)
    state = {
        e.public: torch.rand(e.shape, generator=gen)
        for e in Layout('seg-decoder', DECODER).entries
    }
    path = tmp_path / 'decoder.pth'
    torch.save(state, path)
    return path, state


def test_every_tensor_finds_its_place(file):
    path, state = file
    target = model()
    report = load_pretrained(target, f'sn://{path}')
    own = target.state_dict()
    sn = 'decode_head.convs.0.sn'
    assert torch.equal(own[f'{sn}.bias'], state['cbr.1.bias'].flatten())
    assert torch.equal(
        own['decode_head.conv_seg.weight'], state['conv_last.weight']
    )
    assert report.complete and len(report.used) == len(state)
    assert noted_start(target.get_submodule(sn)) == f'sn://{path}'


def test_a_part_by_its_name(file):
    path, state = file
    head = Head()
    load_pretrained(head, str(path), prefix='decode_head')
    assert torch.equal(head.conv_seg.bias.data, state['conv_last.bias'])
    with pytest.raises(CheckpointError, match="prefix='neck'"):
        load_pretrained(head, str(path), prefix='neck')


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(classes=3), 'num_classes=2 in model.decode_head'),
        (dict(unbiased=False), 'unbiased=True in norm_cfg'),
        (dict(dim=8), 'has shape'),
    ],
)
def test_a_model_that_does_not_fit_is_left_alone(file, options, words):
    target = model(**options)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(target, str(file[0]))
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_part_that_is_filled_in_part(file):
    target = model()
    target['decode_head'].more = nn.Conv2d(1, 1, 1)
    with pytest.raises(CheckpointError, match='only in part.*more.weight'):
        load_pretrained(target, str(file[0]))


def test_what_the_model_lacks(file):
    target = model()
    del target['decode_head'].conv_seg
    with pytest.raises(CheckpointError, match='conv_seg.* lacks'):
        load_pretrained(target, str(file[0]))


def test_a_state_of_bn_is_read_and_the_model_only_looked_at(tmp_path):
    source = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    source(torch.randn(2, 3, 5, 5))
    torch.save(source.state_dict(), tmp_path / 'bn.pth')
    target = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = target[0].weight.clone()
    for text in (tmp_path / 'bn.pth', f'bn2sn://{tmp_path / "bn.pth"}'):
        state = read_bn_state(target, text)
        for key, value in source.state_dict().items():
            if key in state:
                assert torch.equal(state[key], value), key
        assert {'0.weight', '1.running_var'} <= set(state)
    assert torch.equal(target[0].weight, before)
