# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a data set's class makes of its config."""

from __future__ import annotations

import pytest
from mmdet.datasets import CocoDataset
from mmseg.datasets import CityscapesDataset

from sn_mm.datasets.spec import read_spec

COCO = dict(
    type='CocoDataset',
    data_root='data/own/',
    ann_file='ann.json',
    data_prefix=dict(img='imgs/'),
)


@pytest.mark.parametrize('kind', ['CocoDataset', CocoDataset])
def test_of_mmdet(kind):
    spec = read_spec(dict(COCO, type=kind, test_mode=True))
    assert spec.kind == 'CocoDataset' and spec.cls is CocoDataset
    assert spec.ann_file == 'data/own/ann.json'
    assert spec.images == 'data/own/imgs/'
    assert spec.classes == tuple(CocoDataset.METAINFO['classes'])
    assert not spec.own_classes and spec.test_mode
    assert spec.image_suffix == spec.label_suffix == ''
    assert spec.derives_from('BaseDetDataset')
    assert not spec.derives_from('BaseSegDataset')


def test_of_mmseg_by_its_prefix():
    """Both toolboxes have a CityscapesDataset."""
    prefix = dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val')
    config = dict(
        type='CityscapesDataset', data_root='data/c', data_prefix=prefix
    )
    spec = read_spec(config)
    assert spec.cls is CityscapesDataset
    assert spec.images == 'data/c/leftImg8bit/val'
    assert spec.image_suffix == '_leftImg8bit.png'
    assert spec.label_suffix == '_gtFine_labelTrainIds.png'


def test_what_the_config_itself_says():
    spec = read_spec(
        dict(
            COCO,
            metainfo=dict(classes=['x', 'y']),
            filter_cfg=dict(min_size=32),
            indices=5,
        )
    )
    assert spec.own_classes and spec.classes == ('x', 'y')
    assert spec.filter_cfg == dict(min_size=32) and spec.indices == 5
    one = read_spec(dict(COCO, metainfo=dict(classes='x')))
    assert one.classes == 'x'


def test_classes_that_nobody_has():
    spec = read_spec(
        dict(
            type='package.MadeUp',
            data_root='root',
            ann_file='a.txt',
            data_prefix='imgs',
            metainfo=dict(classes=['x']),
            img_suffix='.tif',
        )
    )
    assert spec.cls is None and spec.kind == 'MadeUp'
    assert (spec.ann_file, spec.images) == ('root/a.txt', 'root/imgs')
    assert spec.classes == ('x',) and spec.image_suffix == '.tif'
    assert spec.derives_from('MadeUp') and not spec.derives_from('Other')
    split = read_spec(dict(type='ImageNetX', data_root='r', split='train'))
    assert split.images == 'r/train' and split.ann_file == ''


def test_a_class_that_raises_leaves_what_the_config_says():
    class Broken(CocoDataset):
        def __init__(self, *args, **kwargs):
            raise RuntimeError

    spec = read_spec(dict(COCO, type=Broken))
    assert spec.cls is Broken
    assert spec.ann_file == 'data/own/ann.json'
    assert spec.images == 'data/own/imgs/'
