# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""SN in box and mask heads: many RoIs, few RoIs, none."""

import copy

import pytest
import torch
from mmdet.testing import demo_mm_inputs

from tests.builders import (
    build,
    faster_rcnn,
    outputs_and_grads,
    randomize_norms,
    reference_copy,
    switch_norms,
)
from tests.utils import assert_close

BOX = dict(
    type='Shared4Conv1FCBBoxHead',
    in_channels=256,
    conv_out_channels=256,
    fc_out_channels=64,
    num_classes=3,
)
MASK = dict(
    type='FCNMaskHead',
    in_channels=256,
    conv_out_channels=256,
    num_convs=4,
    num_classes=3,
)
HEADS = {'box': (BOX, 7), 'mask': (MASK, 14)}


def head_and_rois(name, rois, norm='SN'):
    cfg, size = HEADS[name]
    torch.manual_seed(0)
    head = build('mmdet', dict(cfg, norm_cfg=dict(type=norm)))
    return randomize_norms(head).train(), torch.randn(rois, 256, size, size)


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('norm', ['SN', 'SyncSN'])
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_no_rois(name, norm, training):
    head, rois = head_and_rois(name, 0, norm)
    head.train(training)
    before = copy.deepcopy(head.state_dict())
    rois.requires_grad_()
    outputs = head(rois)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(len(o) == 0 for o in outputs)
    sum(o.sum() for o in outputs).backward()
    assert rois.grad.shape == rois.shape
    for key, p in head.named_parameters():
        # a gradient is there: DistributedDataParallel waits for it
        assert p.grad is not None and not p.grad.any(), key
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize('name', HEADS)
def test_values_and_gradients(name):
    head, rois = head_and_rois(name, 5)
    want = outputs_and_grads(reference_copy(head), rois.double())
    got = outputs_and_grads(head.double(), rois.double())
    assert_close(got, want, 1e-8)


@pytest.mark.parametrize(
    'boxes', [[3, 2], [0, 2], [0, 0]], ids=['both', 'one', 'none']
)
def test_a_detector_trains_on_images_without_objects(boxes):
    model = faster_rcnn(frozen_stages=-1)
    model.train()
    data = demo_mm_inputs(
        2, [(3, 64, 96), (3, 64, 64)], num_items=boxes, num_classes=3
    )
    data = model.data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
    head = switch_norms(model.roi_head.bbox_head)
    assert len(head) == 4
    for key, layer in switch_norms(model).items():
        calls = int(layer.num_batches_tracked)
        assert calls == 1, (key, calls)
        assert torch.isfinite(layer.running_var).all(), key


def test_a_box_head_without_any_proposal():
    """The sampler returned nothing: the toolbox feeds N = 0 to the head."""
    model = faster_rcnn(frozen_stages=-1)
    model.train()
    features = [torch.randn(1, 16, s, s) for s in (16, 8, 4, 2)]
    before = copy.deepcopy(model.roi_head.state_dict())
    result = model.roi_head._bbox_forward(features, torch.zeros(0, 5))
    assert result['cls_score'].shape == (0, 4)
    assert result['bbox_pred'].shape == (0, 12)
    (result['cls_score'].sum() + result['bbox_pred'].sum()).backward()
    for key, p in model.roi_head.named_parameters():
        assert p.grad is not None and not p.grad.any(), key
    for key, value in model.roi_head.state_dict().items():
        assert torch.equal(value, before[key]), key
