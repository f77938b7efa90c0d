# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A public state dict under OpenMMLab's names, and back."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sn_mm.checkpoints.convert import (
    STYLES,
    backbone_name,
    check_finite,
    convert,
    full_name,
    mmpretrain_name,
    name_of,
    style_of,
    torchvision_name,
)
from sn_mm.checkpoints.layouts import Layout
from sn_mm.checkpoints.report import Report
from sn_mm.utils.errors import CheckpointError

DECODER = Layout(
    'seg-decoder', dict(ratios=3, dim=4, inputs=[6, 0], num_classes=2)
)
RESNET = Layout(
    'resnet', dict(prefix='', ratios=3, sparse=False, fc=9, depth=18)
)


def public():
    """Numbers of their own in every place."""
    gen = torch.Generator().manual_seed(0)
    return {
        e.public: torch.rand(e.shape, generator=gen) for e in DECODER.entries
    }


def report():
    return Report('file', str(DECODER))


@pytest.mark.parametrize(
    'name, backbone, fc',
    [
        (full_name, 'backbone.layer1.0.sn1.weight', None),
        (backbone_name, 'layer1.0.sn1.weight', None),
        (mmpretrain_name, 'backbone.layer1.0.sn1.weight', 'head.fc.bias'),
        (torchvision_name, 'layer1.0.bn1.weight', 'fc.bias'),
    ],
)
def test_names_of_targets(name, backbone, fc):
    assert name('backbone.layer1.0.sn1.weight') == backbone
    assert name('fc.bias') == fc
    if name is not full_name and name is not mmpretrain_name:
        assert name('neck.fpn_convs.0.sn.weight') is None


def test_styles():
    assert [style_of('mmdet', layout) for layout in (RESNET, DECODER)] == [
        'backbone',
        'model',
    ]
    assert style_of('mmseg', RESNET, joined=True) == 'model'
    assert style_of('torchvision', DECODER) == 'torchvision'
    assert set(STYLES) == {
        'mmdet',
        'mmseg',
        'backbone',
        'model',
        'mmpretrain',
        'torchvision',
    }
    assert name_of('backbone') is backbone_name
    with pytest.raises(CheckpointError, match="to='caffe': choose from"):
        style_of('caffe', RESNET)


def test_there():
    state = public()
    account = report()
    got = convert(state, DECODER, full_name, account)
    key = 'decode_head.convs.0.sn'
    assert torch.equal(got[f'{key}.weight'], state['cbr.1.weight'].flatten())
    assert got[f'{key}.num_batches_tracked'] == 0
    assert torch.equal(
        got['decode_head.conv_seg.bias'], state['conv_last.bias']
    )
    assert got._metadata == {
        key: dict(unbiased=True, eps=1e-5, statistics=('in', 'ln', 'bn'))
    }
    assert len(account.used) == len(state) == len(got) - 1
    assert account.complete and not account.dropped


def test_what_has_no_place_is_told():
    state = public()
    state['conv_last.batch_mean'] = torch.zeros(1)
    state['other'] = torch.zeros(1)
    account = report()
    out = convert(
        state,
        DECODER,
        lambda t: None if 'conv_seg' in t else t,
        account,
    )
    assert not any('conv_seg' in key for key in out)
    assert account.unknown == ['other']
    assert [d.reason for d in account.dropped] == [
        'no decode_head in the target',
        'no decode_head in the target',
        'read by no code',
    ]


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda s: s.pop('cbr.1.var_weight'), '1 keys of a .* are missing'),
        (
            lambda s: s.update({'conv_last.bias': torch.zeros(3)}),
            r'conv_last.bias has shape \(3,\), but a .* has \(2,\) there',
        ),
        (
            lambda s: s['cbr.1.running_var'].fill_(-1),
            'running_var is negative in 4 of 4',
        ),
        (lambda s: s['cbr.0.weight'].fill_(float('inf')), 'cbr.0.weight'),
    ],
)
def test_files_that_are_none(change, words):
    state = public()
    change(state)
    with pytest.raises(CheckpointError, match=words):
        convert(state, DECODER, full_name, report())


class Sizes(TorchDispatchMode):
    """Notes the elements of every tensor that is no view of another."""

    def __init__(self):
        super().__init__()
        self.made = [0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not (
            args and out.data_ptr() == getattr(args[0], 'data_ptr', int)()
        ):
            self.made.append(out.numel())
        return out


def test_large_tensors_are_checked_without_copies():
    """Those of a mapped file would be the file once more."""
    value = torch.zeros(3, 1 << 20)
    with Sizes() as sizes:
        check_finite('a.weight', value)
    assert 0 < max(sizes.made) < value.numel() / 2
    value[0, 5] = value[2, -1] = float('nan')
    with pytest.raises(CheckpointError, match='in 2 of 3145728 places'):
        check_finite('a.weight', value)


def test_finite_numbers_pass():
    check_finite('a.running_var', torch.zeros(3))
    check_finite('a.bias', -torch.ones(3))
    check_finite('a.count', torch.tensor(-3))
