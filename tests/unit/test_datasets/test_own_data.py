# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Data sets of users' own: what mmdet opens passes, what it loses is told."""

import json
import os

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from sn_mm.datasets import DataError, check_dataset
from tests.datasets import refusal_of, warnings_about

SIZE = (8, 10)  # height and width of the pictures


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``imgs/a.jpg`` and ``imgs/sub/b.jpg``."""
    (tmp_path / 'imgs/sub').mkdir(parents=True)
    for name in ('a', 'sub/b'):
        file = tmp_path / f'imgs/{name}.jpg'
        cv2.imwrite(str(file), np.zeros((*SIZE, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def box(i, image=1, category=1, bbox=(1, 1, 4, 4), **more):
    entry = dict(id=i, image_id=image, category_id=category, bbox=list(bbox))
    entry.update(area=bbox[2] * bbox[3], iscrowd=0)
    return {**entry, **more}


def write(folder, names=('a.jpg',), boxes=None, categories=('x',), **more):
    """``ann.json``, by default with one box on the first picture."""
    height, width = SIZE
    content = dict(
        images=[
            dict(id=i, file_name=name, height=height, width=width)
            for i, name in enumerate(names, 1)
        ],
        annotations=[box(1)] if boxes is None else boxes,
        categories=[
            dict(id=i, name=name) for i, name in enumerate(categories, 1)
        ],
    )
    content.update(more)
    content = {k: v for k, v in content.items() if v is not None}
    (folder / 'ann.json').write_text(json.dumps(content))


def dataset(folder, **changes):
    config = dict(
        type='CocoDataset',
        data_root=f'{folder}/',
        ann_file='ann.json',
        data_prefix=dict(img='imgs/'),
        metainfo=dict(classes=('x',)),
    )
    return {**config, **changes}


def said(folder, **changes):
    """The warnings of a check that passes."""
    return warnings_about(dataset(folder, **changes))


def refused(folder, **changes):
    text = refusal_of(dataset(folder, **changes))
    assert 'cocodataset.org' not in text
    return text


def opens(folder, **changes):
    """Whether mmdet itself opens every picture that it keeps."""
    config = dataset(folder, **changes)
    config.pop('type')
    built = CocoDataset(**config, pipeline=[], serialize_data=False)
    paths = [built.get_data_info(i)['img_path'] for i in range(len(built))]
    return all(cv2.imread(path) is not None for path in paths)


# -- names of pictures ---------------------------------------------------
@pytest.mark.parametrize(
    'name',
    [
        'a.jpg',
        './a.jpg',
        '../imgs/a.jpg',
        'sub/../a.jpg',
        'sub//b.jpg',
        'sub/./b.jpg',
        '{folder}/imgs/a.jpg',
        'sub\\b.jpg',
        'gone.jpg',
        'sub/gone.jpg',
        'A.jpg',
        'dangling.jpg',
        'linked/b.jpg',
    ],
)
def test_names_as_mmdet_opens_them(folder, name):
    (folder / 'imgs/dangling.jpg').symlink_to(folder / 'gone')
    (folder / 'imgs/linked').symlink_to(folder / 'imgs/sub')
    name = name.format(folder=folder)
    write(folder, [name])
    if opens(folder):
        assert said(folder) == []
    else:
        text = refused(folder)
        assert 'lacks 1 of the 1 pictures' in text and name in text


@pytest.mark.parametrize(
    ('changes', 'name'),
    [
        (dict(data_prefix=dict(img='')), 'imgs/a.jpg'),
        (dict(data_root=''), 'a.jpg'),
        (dict(data_root='', data_prefix=dict(img='')), 'imgs/a.jpg'),
        (
            dict(
                data_root='',
                ann_file='{folder}/ann.json',
                data_prefix=dict(img='{folder}/imgs/'),
            ),
            'a.jpg',
        ),
        (
            dict(data_root='', data_prefix=dict(img='')),
            '{folder}/imgs/sub/b.jpg',
        ),
        (dict(data_root='none/', ann_file='{folder}/ann.json'), 'a.jpg'),
    ],
)
def test_roots_and_prefixes_as_mmdet_joins_them(folder, changes, name):
    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        return value.format(folder=folder)

    write(folder, [filled(name)])
    changes = filled(changes)
    if opens(folder, **changes):
        assert said(folder, **changes) == []
        (folder / 'imgs/a.jpg').unlink()
        (folder / 'imgs/sub/b.jpg').unlink()
    assert refused(folder, **changes)


def test_backslashes_are_named(folder):
    write(folder, ['sub\\b.jpg'])
    assert 'backslashes' in refused(folder)


def test_a_folder_named_twice(folder):
    write(folder, ['imgs/a.jpg'])
    text = refused(folder)
    assert 'a.jpg is there' in text and 'data_prefix' in text


# -- pictures that are dropped -------------------------------------------
@pytest.mark.parametrize(
    'changes',
    [
        dict(filter_cfg=dict(filter_empty_gt=True)),
        dict(filter_cfg=dict(filter_empty_gt=True, min_size=4)),
        dict(indices=1),
        dict(indices=[0]),
    ],
)
def test_dropped_pictures_may_be_missing(folder, changes):
    write(folder, ['a.jpg', 'gone.jpg'])
    assert opens(folder, **changes)
    assert said(folder, **changes) == []
    assert 'gone.jpg' in refused(folder)
    testing = dict(changes, test_mode=True, indices=None)
    assert 'gone.jpg' in refused(folder, **testing)


def test_pictures_without_a_learned_class_may_be_missing(folder):
    boxes = [box(1), box(2, image=2, category=2)]
    write(folder, ['a.jpg', 'gone.jpg'], boxes, ['x', 'y'])
    (text,) = said(folder, filter_cfg=dict(filter_empty_gt=True))
    assert 'metainfo lacks the categories y: their 1 boxes' in text
    assert 'gone.jpg' in refused(folder)


# -- links ---------------------------------------------------------------
def test_links_that_lead_back(folder):
    """A folder linked into itself ends, a folder linked beside counts."""
    (folder / 'imgs/again').symlink_to(folder / 'imgs')
    (folder / 'imgs/sub/up').symlink_to(folder / 'imgs')
    (folder / 'maps').mkdir()
    (folder / 'elsewhere').mkdir()
    (folder / 'elsewhere/c.jpg').touch()
    (folder / 'imgs/more').symlink_to(folder / 'elsewhere')
    (folder / 'imgs/._a.jpg').touch()  # what macOS leaves; mmseg skips it
    config = dict(
        type='ADE20KDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='imgs', seg_map_path='maps'),
    )
    with pytest.raises(DataError, match='lacks 3 of the 3 label maps') as e:
        check_dataset(config)
    assert 'sceneparsing' not in str(e.value)  # not ADE20K: users' own
    for name in ('a', 'sub/b', 'more/c'):
        file = folder / f'maps/{name}.png'
        file.parent.mkdir(exist_ok=True)
        file.touch()
    check_dataset(config)


# -- own data sets of mmseg ----------------------------------------------
def test_suffixes_of_the_class_and_of_the_config(folder):
    """Any data set with a label map for each picture, not only the paper's."""
    (folder / 'maps/sub').mkdir(parents=True)
    config = dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='imgs', seg_map_path='maps'),
        seg_map_suffix='_L.png',
        metainfo=dict(classes=('x',), palette=[[0, 0, 0]]),
    )
    (folder / 'maps/a_L.png').touch()
    with pytest.raises(DataError, match='lacks 1 of the 2 label maps'):
        check_dataset(config)
    (folder / 'some.txt').write_text('a\n')
    check_dataset(dict(config, ann_file='some.txt'))
    (folder / 'some.txt').write_text('a\nc\n')
    with pytest.raises(DataError, match='lacks 1 of the 2 pictures'):
        check_dataset(dict(config, ann_file='some.txt'))


# -- classes -------------------------------------------------------------
FILTER = dict(filter_cfg=dict(filter_empty_gt=True, min_size=1))


@pytest.mark.parametrize(
    'metainfo',
    [None, dict(classes=('dog',)), dict(CLASSES=('x',))],
    ids=['coco', 'another', 'old key'],
)
def test_classes_that_no_category_has(folder, metainfo):
    """'need at least one array to concatenate', before it is said."""
    write(folder)
    with pytest.raises(ValueError, match='at least one array'):
        opened = dataset(folder, metainfo=metainfo, **FILTER)
        opened.pop('type')
        CocoDataset(**opened, pipeline=[])
    text = refused(folder, metainfo=metainfo, **FILTER)
    assert "metainfo=dict(classes=('x',))" in text
    assert ('not CLASSES' in text) == ('CLASSES' in (metainfo or {}))
    # pictures stay without a filter: there is something to train on
    texts = said(folder, metainfo=metainfo)
    assert any("metainfo=dict(classes=('x',))" in text for text in texts)
    assert any('no box is left' in text for text in texts)


def test_some_classes_and_categories_that_do_not_meet(folder):
    write(folder, boxes=[box(1), box(2, category=2)], categories=['x', 'y'])
    texts = said(folder, metainfo=dict(classes=('cat', 'x')))
    assert len(texts) == 2
    assert 'no category is called cat' in texts[0]
    assert 'lacks the categories y: their 1 boxes' in texts[1]
    assert said(folder, metainfo=dict(classes=('x', 'y'))) == []


def test_classes_in_another_order(folder):
    """Labels follow the file, names follow the config."""
    write(folder, boxes=[box(1)], categories=['x', 'y'])
    changes = dict(metainfo=dict(classes=('y', 'x')))
    config = dataset(folder, **changes)
    config.pop('type')
    built = CocoDataset(**config, pipeline=[], serialize_data=False)
    (instance,) = built.get_data_info(0)['instances']
    assert built.metainfo['classes'][instance['bbox_label']] == 'y'
    (text,) = said(folder, **changes)
    assert 'label 0 is learned from x and called y' in text


def test_classes_that_are_one_text(folder):
    write(folder)
    (text,) = said(folder, metainfo=dict(classes='x'))
    assert "write classes=('x',)" in text


def test_classes_of_a_file(folder):
    (folder / 'names.txt').write_text('x\n')
    write(folder)
    assert said(folder, metainfo=dict(classes='names.txt')) == []


def test_category_ids_that_no_category_has(folder):
    write(folder, boxes=[box(1), box(2, category=0), box(3, category=7)])
    (text,) = said(folder)
    assert '2 boxes are of category ids that no category has (0, 7)' in text


# -- boxes ---------------------------------------------------------------
@pytest.mark.parametrize(
    ('boxes', 'why'),
    [
        ([], 'none is in it'),
        ([box(1, area=0)], 'of area 0'),
        ([box(1, bbox=(1, 1, 0.5, 4))], 'less than a pixel wide'),
        ([box(1, bbox=(20, 20, 4, 4))], 'outside of the picture'),
        ([box(1, ignore=True)], 'marked as ignored'),
        ([box(1, category=7)], 'of no class'),
        ([box(1, image=9)], 'of no picture'),
    ],
)
def test_no_box_at_all(folder, boxes, why):
    write(folder, boxes=boxes)
    texts = [text for text in said(folder) if 'no box is left' in text]
    assert len(texts) == 1 and why in texts[0]
    # to be filtered out, as most configs say: nothing to train on
    assert refused(folder, **FILTER)


def test_a_test_set_needs_no_boxes(folder):
    write(folder, boxes=None, annotations=None)
    assert said(folder, test_mode=True) == []
    assert any('no box' in text for text in said(folder))


@pytest.mark.parametrize(
    ('bbox', 'count'),
    [((6, 4, 4.9, 4.9), 0), ((-3, 1, 5, 4), 1), ((6, 1, 8, 4), 1)],
)
def test_boxes_that_reach_out(folder, bbox, count):
    write(folder, boxes=[box(1, bbox=bbox), box(2)])
    texts = said(folder)
    assert len(texts) == count
    for text in texts:
        assert '1 of 2 boxes reach out' in text
        assert 'a.jpg of 10 x 8' in text


def test_corners_in_place_of_sizes(folder):
    write(folder, boxes=[box(1, bbox=(5, 4, 9, 8)), box(2)])
    (text,) = said(folder)
    assert 'may be corners' in text


def test_many_boxes_that_mmdet_drops(folder):
    write(folder, boxes=[box(1), box(2, area=0)])
    (text,) = said(folder)
    assert '1 of 2 boxes are not learned' in text


# -- files that mmdet cannot read ----------------------------------------
@pytest.mark.parametrize(
    ('more', 'what'),
    [
        (dict(categories=()), 'has no categories'),
        (dict(images=[dict(id=1, file_name='a.jpg')]), 'has no height'),
        (dict(annotations=[dict(id=1, image_id=1)]), 'has no category_id'),
        (
            dict(annotations=[dict(id=1, image_id=1, category_id=1)]),
            'has no bbox and no area',
        ),
        (dict(annotations=[box(3), box(3)]), 'several annotations with id 3'),
        (dict(annotations=[box(1, bbox=[1] * 4) | {'bbox': [1]}]), '[x, y,'),
        (dict(images={}), 'no list of images'),
    ],
)
def test_entries_that_lack_something(folder, more, what):
    write(folder, **more)
    assert what in refused(folder)


@pytest.mark.parametrize('text', ['{"images": [}', '[]'])
def test_files_that_are_no_coco_files(folder, text):
    (folder / 'ann.json').write_text(text)
    assert 'ann.json is no' in refused(folder)


MASKS = dict(
    pipeline=[
        dict(
            type='MultiBranch',
            sup=[dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        )
    ]
)


def test_masks_that_boxes_do_not_have(folder):
    """mmdet ends in KeyError: 'mask', in a worker of a data loader."""
    outline = dict(segmentation=[[1, 1, 5, 1, 5, 5]])
    write(folder, boxes=[box(1, **outline), box(2)])
    assert said(folder) == []
    text = refused(folder, **MASKS)
    assert '1 of the 2 boxes' in text and 'with_mask=True' in text
    # of which mmdet never asks for one
    other = box(2, ignore=1), box(3, bbox=(20, 20, 3, 3))
    write(folder, boxes=[box(1, **outline), *other])
    assert not any('with_mask' in text for text in said(folder, **MASKS))


# -- classes of users' own -----------------------------------------------
class Renamed(CocoDataset):
    """Registered by nobody: configs in pure Python name the class."""

    METAINFO = dict(classes=('x',), palette=[(0, 0, 0)])


class ReadsItsOwnWay(CocoDataset):
    def parse_data_info(self, raw_data_info):
        raw_data_info['raw_img_info']['file_name'] += '.jpg'
        return super().parse_data_info(raw_data_info)


def test_classes_as_types(folder):
    write(folder, ['gone.jpg'])
    for kind in (CocoDataset, Renamed, 'mmdet.CocoDataset'):
        assert 'gone.jpg' in refused(folder, type=kind)
    write(folder)
    assert said(folder, type=Renamed, metainfo=None) == []


def test_what_a_class_reads_its_own_way_is_left_to_it(folder):
    write(folder, ['a'])
    assert said(folder, type=ReadsItsOwnWay) == []
    assert 'none' in refused(
        folder, type=ReadsItsOwnWay, data_prefix=dict(img='none')
    )


# -- processes -----------------------------------------------------------
@pytest.mark.parametrize('name', ['LOCAL_RANK', 'SLURM_LOCALID'])
def test_contents_are_looked_at_once_on_a_machine(folder, monkeypatch, name):
    write(folder, categories=['x', 'y'])
    monkeypatch.setenv(name, '1')
    assert said(folder) == []
    os.remove(folder / 'ann.json')
    assert 'ann.json' in refused(folder)
    write(folder, categories=['x', 'y'])
    monkeypatch.setenv(name, '0')
    assert len(said(folder)) == 1
