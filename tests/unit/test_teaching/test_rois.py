# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The student looks at the teacher's regions, stage by stage."""

from __future__ import annotations

import types

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from sn_mm.teaching.rois import Regions, propose, recorded, replayed


class Extractor(nn.Module):
    def forward(self, feats, rois, scale=None):
        return rois


class Head(nn.Module):
    """A cascade of two stages whose second moves its regions."""

    def __init__(self, shift):
        super().__init__()
        self.bbox_roi_extractor = nn.ModuleList([Extractor(), Extractor()])
        # a mask head that shares one of them
        self.mask_roi_extractor = self.bbox_roi_extractor[1]
        self.shift = shift

    def forward(self, rois):
        first = self.bbox_roi_extractor[0](None, rois)
        second = self.bbox_roi_extractor[1](None, first + self.shift, 2)
        return first, second


def test_replayed_regions_are_the_recorded_ones():
    teacher, student, regions = Head(1.0), Head(5.0), Regions()
    rois = torch.zeros(2, 5)
    with recorded(teacher, regions):
        wanted = teacher(rois)
    assert len(regions.rois) == 2
    with replayed(student, regions):
        got = student(rois + 9)
    for a, b in zip(got, wanted):
        assert torch.equal(a, b)
    # and afterwards each has its own again
    assert torch.equal(student(rois)[1], rois + 5)
    teacher(rois)
    assert len(regions.rois) == 2


def test_hooks_go_after_errors_too():
    head = Head(1.0)
    with pytest.raises(RuntimeError):
        with recorded(head, Regions()):
            raise RuntimeError
    assert not any(m._forward_pre_hooks for m in head.modules())


def model_of(train_cfg):
    found = [
        InstanceData(bboxes=torch.arange(4.0 * n).view(n, 4)) for n in (9, 3)
    ]
    rpn = types.SimpleNamespace(predict=lambda *args, rescale: found)
    head = types.SimpleNamespace(train_cfg=train_cfg)
    return types.SimpleNamespace(rpn_head=rpn, roi_head=head), found


@pytest.mark.parametrize('cascade', [False, True])
def test_proposals_from_the_best_to_the_worst(cascade):
    settings = dict(sampler=dict(num=5))
    model, found = model_of([settings, {}] if cascade else settings)
    many, few = propose(model, None, [])
    assert torch.equal(many.bboxes, found[0].bboxes[[0, 2, 4, 6, 8]])
    assert few is found[1]


@pytest.mark.parametrize('train_cfg', [None, {}, []])
def test_all_of_them_where_the_number_is_not_known(train_cfg):
    model, found = model_of(train_cfg)
    assert propose(model, None, []) == found
