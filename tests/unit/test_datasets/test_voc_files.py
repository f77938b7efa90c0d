# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Users' own data in VOC's form: what mmdet opens passes, the rest is told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from mmdet.datasets import VOCDataset, XMLDataset

from sn_mm.datasets.spec import read_spec
from sn_mm.datasets.voc_files import VocView
from tests.datasets import refusal_of, warnings_about

SIZE = (10, 8)  # width and height of the pictures
BOX = ('cat', (2, 2, 6, 7))


def xml(boxes, size=SIZE):
    objects = ''.join(
        f'<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>'
        f'<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>'
        for name, (a, b, c, d) in boxes
    )
    text = '<size><width>{}</width><height>{}</height></size>'
    head = '' if size is None else text.format(*size)
    return f'<annotation>{head}{objects}</annotation>'


def add(folder, name, boxes=(BOX,), suffix='.jpg', **options):
    (folder / f'Annotations/{name}.xml').write_text(xml(boxes, **options))
    picture = np.zeros((*SIZE[::-1], 3), np.uint8)
    cv2.imwrite(str(folder / f'JPEGImages/{name}{suffix}'), picture)
    with open(folder / 'train.txt', 'a') as file:
        file.write(f'{name}\n')


@pytest.fixture
def folder(tmp_path):
    for name in ('Annotations', 'JPEGImages'):
        (tmp_path / name).mkdir()
    add(tmp_path, 'a')
    return tmp_path


def dataset(folder, **changes):
    config = dict(
        type='VOCDataset',
        data_root=f'{folder}/',
        ann_file='train.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('cat',)),
        filter_cfg=dict(filter_empty_gt=True, min_size=4),
    )
    return {**config, **changes}


def said(folder, **changes):
    """The warnings of a check that passes."""
    return warnings_about(dataset(folder, **changes))


def refused(folder, **changes):
    return refusal_of(dataset(folder, **changes))


def test_whole_data_of_both_classes(folder):
    add(folder, 'b', size=None)
    assert said(folder) == []
    for kind in (XMLDataset, VOCDataset, 'mmdet.XMLDataset'):
        assert said(folder, type=kind) == []


def test_other_folders(folder):
    (folder / 'JPEGImages').rename(folder / 'pictures')
    assert 'JPEGImages lacks 1 of the 1 pictures' in refused(folder)
    assert said(folder, img_subdir='pictures') == []


def test_pictures_as_mmdet_opens_them(folder):
    add(folder, 'png', suffix='.png')
    text = refused(folder)
    assert 'lacks 1 of the 2 pictures' in text and 'png.png is there' in text
    config = dataset(folder)
    built = VOCDataset(
        **{k: v for k, v in config.items() if k != 'type'}, pipeline=[]
    )
    assert built.get_data_info(1)['img_path'].endswith('png.jpg')


def test_files_that_are_missing(folder):
    with open(folder / 'train.txt', 'a') as file:
        file.write('gone\n')
    assert 'such as gone.xml' in refused(folder)
    (folder / 'train.txt').write_text('a\n\n')
    assert 'empty line' in refused(folder)
    (folder / 'train.txt').write_text('')
    assert 'lists no pictures' in refused(folder)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<annotation>', 'a.xml is no XML'),
        (xml([BOX]).replace('xmax', 'right'), 'a.xml lacks something'),
        (xml([BOX]).replace('>10<', '>wide<'), 'a.xml lacks something'),
    ],
)
def test_files_that_cannot_be_read(folder, text, words):
    (folder / 'Annotations/a.xml').write_text(text)
    assert words in refused(folder)


def test_names_that_are_no_class(folder):
    """What mmdet ends in 'need at least one array to concatenate'."""
    text = refused(folder, metainfo=dict(classes=('dog',)))
    assert 'called cat' in text and "classes=('cat',)" in text
    add(folder, 'a', [('digit', (2, 2, 6, 7))])
    text = refused(folder, metainfo=None)
    assert 'VOCDataset has the classes aeroplane' in text
    (text,) = said(folder, metainfo=dict(classes=('cow',)), filter_cfg=None)
    assert 'no class is learned' in text


def test_names_and_classes_that_do_not_all_meet(folder):
    add(folder, 'b', [('cow', (1, 1, 5, 5)), BOX])
    unknown, left_out = said(folder, metainfo=dict(classes=('cat', 'dog')))
    assert 'no object is called dog' in unknown
    assert 'lacks cow: their 1 boxes' in left_out
    (text, *_) = said(folder, metainfo=dict(classes='cat'))
    assert "classes=('cat',)" in text


def test_pictures_that_are_filtered_may_be_missing(folder):
    add(folder, 'b', [])
    (folder / 'JPEGImages/b.jpg').unlink()
    assert said(folder) == []
    assert 'b.jpg' in refused(folder, test_mode=True)
    (folder / 'Annotations/a.xml').write_text(xml([]))
    assert 'no objects' in refused(folder)


@pytest.mark.parametrize(
    ('corners', 'words'),
    [
        ((1, 1, 10, 8), None),
        ((0, 0, 11, 9), None),
        ((2, 2, 14, 7), 'reach out'),
        ((-3, 2, 6, 7), 'reach out'),
        ((6, 2, 2, 7), 'no width'),
    ],
)
def test_odd_boxes(folder, corners, words):
    add(folder, 'b', [('cat', corners)])
    texts = said(folder)
    assert bool(texts) is (words is not None)
    if words:
        assert words in texts[0] and str(corners) in texts[0]
        assert '1 of 2 boxes' in texts[0] and 'in b of 10 x 8' in texts[0]


class ReadsItsOwnWay(XMLDataset):
    def parse_data_info(self, img_info):
        raise NotImplementedError


def test_what_a_class_reads_its_own_way_is_left_to_it(folder):
    (folder / 'JPEGImages/a.jpg').unlink()
    assert said(folder, type=ReadsItsOwnWay) == []


def test_a_view_by_itself(folder):
    view = VocView(read_spec(dataset(folder), 'mmdet'))
    assert view.lacking() is None and view.warnings() == []
