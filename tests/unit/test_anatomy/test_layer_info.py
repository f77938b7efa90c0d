# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What layers are: their kinds, stages and labels."""

from __future__ import annotations

import pytest
from mmengine.registry import MODELS

from sn_mm.anatomy.layer_info import infos_of_model, infos_of_state
from sn_mm.anatomy.ratios import ratios_of_model
from tests.builders import faster_rcnn, resnet


@pytest.mark.parametrize('depth, shortcuts', [(18, 3), (50, 4)])
def test_kinds_of_layers(depth, shortcuts):
    model = resnet(depth=depth)
    infos, note = infos_of_model(model)
    assert not note
    by_state = infos_of_state(model.state_dict(), ratios_of_model(model))
    assert [(i.kind, i.stage) for i in infos] == [
        (i.kind, i.stage) for i in by_state
    ]
    kinds = [i.kind for i in infos]
    assert kinds.count('shortcut') == shortcuts and kinds.count('7x7') == 1
    if depth == 50:
        assert kinds.count('3x3') == 16 and kinds.count('1x1') == 32
    assert {i.stage for i in infos} == {f'res{k}' for k in range(1, 6)}
    labels = [i.short for i in infos]
    assert len(set(labels)) == len(labels)
    assert labels[1] == 'res2.1.1'


def test_labels_of_a_detector_are_distinct_in_each_component():
    infos, _ = infos_of_model(faster_rcnn())
    labels = [(i.component, i.short) for i in infos]
    assert len(set(labels)) == len(labels)
    assert ('neck', 'lateral.0') in labels
    assert ('box_head', 'shared.3') in labels


def test_networks_with_more_than_stem_and_stages():
    """What is behind the stages is no stem, and no two labels are one."""
    cfg = dict(type='MobileNetV2', norm_cfg=dict(type='SN'))
    with MODELS.switch_scope_and_registry('mmdet') as models:
        model = models.build(cfg)
    infos, _ = infos_of_model(model)
    assert [i.stage for i in infos][-1] == 'conv2'
    assert [i.stage for i in infos].count('res1') == 1
    labels = [i.short for i in infos]
    assert len(set(labels)) == len(labels)
    assert labels[1:3] == ['res2.1.depthwise_conv', 'res2.1.linear_conv']
