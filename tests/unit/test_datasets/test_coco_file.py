# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Annotation files and the configs that look at them, without pictures.

Beside mmdet, with pictures and through the checks: test_own_data.
"""

from __future__ import annotations

import json

import pytest

from sn_mm.datasets.coco_file import (
    BrokenFileError,
    CocoFile,
    CocoView,
    UnusableError,
)
from sn_mm.datasets.spec import DatasetSpec

IMAGES = [
    dict(id=1, file_name='a.jpg', height=8, width=10),
    dict(id=2, file_name='b.jpg', height=80, width=100),
    dict(id=3, file_name='c.jpg', height=80, width=100),
]
CATEGORIES = [dict(id=5, name='x'), dict(id=7, name='y')]


def box(i, image=1, category=5, bbox=(1, 1, 4, 4), **more):
    entry = dict(id=i, image_id=image, category_id=category, bbox=list(bbox))
    return dict(entry, area=bbox[2] * bbox[3], **more)


def file(*boxes, labelled=True):
    return CocoFile('f.json', IMAGES, boxes, CATEGORIES, labelled)


def view(*boxes, classes=('x', 'y'), labelled=True, **options):
    spec = DatasetSpec(
        'CocoDataset', None, '', 'f.json', {}, classes=classes, **options
    )
    return CocoView(file(*boxes, labelled=labelled), spec)


def test_reading(tmp_path):
    path = tmp_path / 'f.json'
    content = dict(images=IMAGES, annotations=[box(1)], categories=CATEGORIES)
    path.write_text(json.dumps(content))
    found = CocoFile.read(str(path))
    assert found.is_labelled and found.annotations == [box(1)]
    del content['annotations']
    path.write_text(json.dumps(content))
    assert not CocoFile.read(str(path)).is_labelled


@pytest.mark.parametrize(
    'text, words',
    [
        ('', 'is empty'),
        ('{"images": [', 'is truncated'),
        ('{"images": }', 'is no JSON'),
        ('[]', 'it holds a list'),
        ('{}', 'no list of images'),
        ('{"images": []}', 'lists no pictures'),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, words):
    path = tmp_path / 'f.json'
    path.write_text(text)
    with pytest.raises(BrokenFileError, match=words):
        CocoFile.read(str(path))


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(categories=[]), 'has no categories'),
        (
            dict(images=[dict(id=1, file_name='a')]),
            r'images\[0\] has no height and no width',
        ),
        (dict(annotations=[box(1), box(1)]), 'several annotations with id 1'),
        (
            dict(annotations=[dict(box(3), bbox=[1, 2, 3])]),
            r'id 3 has bbox \[1, 2, 3\]',
        ),
        (
            dict(annotations=[dict(id=1, image_id=1)]),
            r'annotations\[0\] has no category_id',
        ),
    ],
)
def test_entries_that_mmdet_cannot_use(tmp_path, change, words):
    path = tmp_path / 'f.json'
    content = dict(images=IMAGES, annotations=[box(1)], categories=CATEGORIES)
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(UnusableError, match=words):
        CocoFile.read(str(path))


def test_pictures_that_are_left():
    boxes = box(1, image=1), box(2, image=2, category=7)
    assert view(*boxes).opened() == ['a.jpg', 'b.jpg', 'c.jpg']
    rules = dict(filter_empty_gt=True, min_size=0)
    assert view(*boxes, filter_cfg=rules).opened() == ['a.jpg', 'b.jpg']
    # boxes of no class do not count
    only = view(*boxes, classes=('y',), filter_cfg=rules)
    assert only.opened() == ['b.jpg'] and len(only.learned) == 1
    small = dict(filter_empty_gt=False, min_size=32)
    assert view(*boxes, filter_cfg=small).opened() == ['b.jpg', 'c.jpg']
    tests = view(*boxes, filter_cfg=small, test_mode=True)
    assert len(tests.opened()) == 3
    for indices, want in ((1, 'a'), (-1, 'c'), ([2, 0], 'ca')):
        found = view(*boxes, indices=indices).opened()
        assert found == [f'{n}.jpg' for n in want]


def test_boxes_that_are_not_learned():
    rules = dict(filter_cfg=dict(filter_empty_gt=True))
    lost = (
        box(1, bbox=(1, 1, 0.5, 4)),
        box(2, bbox=(20, 1, 4, 4)),
        box(3, category=6),
        box(4, image=9),
        box(5, ignore=1),
    )
    assert view(*lost, **rules).lacks_boxes()
    text = view(*lost, **rules).why_no_box_is_left()
    for why in (
        'of 5, 1 less than a pixel',
        '1 outside of the picture',
        '1 of no class',
        '1 of no picture',
        '1 marked as ignored',
    ):
        assert why in text
    assert not view(*lost, box(6), **rules).lacks_boxes()
    assert not view(*lost).lacks_boxes()


def test_classes_that_no_category_has():
    wrong = view(box(1), classes=('z',), own_classes=True)
    text = wrong.why_nothing_is_left()
    assert "metainfo=dict(classes=('x', 'y')" in text
    assert 'num_classes=2 in the heads' in text
    assert any('no class is learned' in t for t in wrong.warnings())


@pytest.mark.parametrize(
    'classes, words',
    [
        (('x', 'y'), None),
        (('y', 'x'), 'label 0 is learned from x and called y'),
        (('x',), 'lacks the categories y: their 1 boxes'),
        (('x', 'y', 'z'), 'no category is called z'),
        ('x', 'is one text, no list'),
    ],
)
def test_what_is_said_of_classes(classes, words):
    said = view(box(1), box(2, category=7), classes=classes).warnings()
    if words is None:
        assert said == []
    else:
        assert words in said[0] and said[0].startswith('f.json: ')


def test_boxes_that_may_be_corners():
    (text,) = view(box(1), box(2, bbox=(4, 4, 9, 8))).warnings()
    assert '1 of 2 boxes reach out' in text and 'may be corners' in text
    # rounding by a pixel is nothing
    assert view(box(1, bbox=(0, 0, 11, 9))).warnings() == []
    # test sets have no boxes
    unlabelled = view(labelled=False, test_mode=True)
    assert unlabelled.warnings() == []
