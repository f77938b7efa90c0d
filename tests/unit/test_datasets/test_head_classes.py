# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Heads with as many classes as the data."""

import pytest

from sn_mm.datasets import DataWarning, check_dataloaders
from sn_mm.datasets.head_classes import mismatched_heads

NAMES = ('cat', 'dog')


def cascade(*counts, masks=2):
    boxes = [dict(type='Shared2FCBBoxHead', num_classes=n) for n in counts]
    return dict(
        rpn_head=dict(type='RPNHead', num_classes=1),
        roi_head=dict(
            bbox_head=boxes,
            mask_head=dict(num_classes=masks),
            semantic_head=dict(num_classes=183),
        ),
    )


@pytest.mark.parametrize(
    'model, wrong',
    [
        (cascade(2, 2), []),
        (cascade(2, 1), ['roi_head.bbox_head[1]']),
        (cascade(80, 80), ['roi_head.bbox_head[0]', 'roi_head.bbox_head[1]']),
        (cascade(2, masks=3), ['roi_head.mask_head']),
        (dict(bbox_head=dict(num_classes=1)), ['bbox_head']),
        (dict(detector=dict(bbox_head=dict(num_classes=2))), []),
        (dict(detector=dict(bbox_head=dict(num_classes=3))), ['detector.']),
        (dict(bbox_head=dict(type='YOLOXHead')), []),
        (None, []),
    ],
)
def test_which_heads(model, wrong):
    found = mismatched_heads(model, NAMES)
    assert len(found) == len(wrong)
    for text, name in zip(found, wrong):
        assert text.startswith(name) and 'write num_classes=2' in text


def test_a_config_warns(tmp_path):
    data = dict(
        type='CocoDataset',
        data_root='http://elsewhere/',
        ann_file='a.json',
        data_prefix=dict(img='img/'),
        metainfo=dict(classes=NAMES),
        backend_args=dict(backend='petrel'),
    )
    cfg = dict(
        default_scope='mmdet',
        model=dict(bbox_head=dict(num_classes=80)),
        train_dataloader=dict(dataset=data),
    )
    with pytest.warns(DataWarning, match='bbox_head.*=80.*2 classes'):
        check_dataloaders(cfg)
