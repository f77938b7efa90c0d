# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import json

import cv2
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmseg.datasets import CityscapesDataset
from PIL import Image, ImageDraw

from demo import CITYSCAPES_METAINFO
from demo.cityscapes import (
    CITIES,
    LABEL_IDS,
    LABELS,
    THINGS,
    to_label_maps,
    to_polygons,
)
from demo.metainfo import CITYSCAPES_BACKGROUND, CITYSCAPES_DIGITS
from demo.scenes import render_scene

SIZE = (96, 128)
ALL_CLASSES = CityscapesDataset.METAINFO['classes']


@pytest.fixture(scope='module')
def scenes():
    return [render_scene(0, 'train', i, SIZE) for i in range(10)]


def read_dataset(demo_data, split, **kwargs):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return CityscapesDataset(
            data_root=str(demo_data / 'cityscapes'),
            data_prefix=dict(
                img_path=f'leftImg8bit/{split}', seg_map_path=f'gtFine/{split}'
            ),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations'),
            ],
            **kwargs,
        )


def test_label_table_gives_mmseg_its_train_ids():
    train_ids = {name: i for name, i in LABELS if i != 255}
    assert train_ids == {name: i for i, name in enumerate(ALL_CLASSES)}
    # The ids that tools count on: https://www.cityscapes-dataset.com
    assert len(LABELS) == 34
    assert (LABEL_IDS['road'], LABEL_IDS['building']) == (7, 11)
    assert (LABEL_IDS['person'], LABEL_IDS['bicycle']) == (24, 33)


def test_compact_metainfo_is_a_part_of_cityscapes():
    palette = CityscapesDataset.METAINFO['palette']
    wanted = [palette[ALL_CLASSES.index(c)] for c in classes_that_occur()]
    assert CITYSCAPES_METAINFO['classes'] == classes_that_occur()
    assert CITYSCAPES_METAINFO['palette'] == wanted


def classes_that_occur():
    return (CITYSCAPES_BACKGROUND, *CITYSCAPES_DIGITS)


def test_label_maps_follow_the_scene(scenes):
    for scene in scenes:
        maps = to_label_maps(scene)
        labels = maps['labelIds']
        ignored = np.isin(labels, (1, 2))
        assert ignored[-1].all() and ignored[:, 0].all()
        assert 0.03 < ignored.mean() < 0.15
        expected = np.full(SIZE, LABEL_IDS[CITYSCAPES_BACKGROUND])
        for instance in scene.instances:
            name = CITYSCAPES_DIGITS[instance.label]
            expected[instance.mask] = LABEL_IDS[name]
        np.testing.assert_array_equal(labels[~ignored], expected[~ignored])
        train_ids = np.array([i for _, i in LABELS])[labels]
        np.testing.assert_array_equal(maps['labelTrainIds'], train_ids)
        assert (maps['labelTrainIds'][ignored] == 255).all()


def test_instance_ids_number_things_and_not_crowds(scenes):
    things = {LABEL_IDS[name] for name in THINGS}
    for scene in scenes:
        maps = to_label_maps(scene)
        ids, labels = maps['instanceIds'], maps['labelIds']
        numbered = ids >= 1000
        np.testing.assert_array_equal(ids[numbered] // 1000, labels[numbered])
        np.testing.assert_array_equal(ids[~numbered], labels[~numbered])
        free = ~np.isin(labels, (1, 2))
        for instance in scene.instances:
            values = np.unique(ids[instance.mask & free])
            assert len(values) <= 1
            label = LABEL_IDS[CITYSCAPES_DIGITS[instance.label]]
            is_numbered = label in things and not instance.crowd
            assert all((v >= 1000) == is_numbered for v in values)


def test_polygons_draw_the_label_map(scenes):
    """As Cityscapes' json2labelImg does: object over object, with PIL."""
    for scene in scenes:
        drawn = Image.new('L', SIZE[::-1])
        for item in to_polygons(scene)['objects']:
            name = item['label'].replace('group', '')
            corners = [tuple(corner) for corner in item['polygon']]
            ImageDraw.Draw(drawn).polygon(corners, fill=LABEL_IDS[name])
        wrong = np.array(drawn) != to_label_maps(scene)['labelIds']
        assert wrong.mean() < 0.002


def test_files_of_a_scene(demo_data, options):
    root = demo_data / 'cityscapes'
    city = CITIES['train'][1]
    stem = f'train/{city}/{city}_000000_000019_'
    scene = render_scene(options.seed, 'train', 1, options.size)
    maps = to_label_maps(scene)
    for name, expected in maps.items():
        path = root / f'gtFine/{stem}gtFine_{name}.png'
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)
    image = cv2.imread(str(root / f'leftImg8bit/{stem}leftImg8bit.png'))
    visible = ~np.isin(maps['labelIds'], (1, 2))
    np.testing.assert_array_equal(
        image[visible], scene.image[..., ::-1][visible]
    )
    polygons = (root / f'gtFine/{stem}gtFine_polygons.json').read_text()
    assert json.loads(polygons) == to_polygons(scene)


def test_no_city_is_in_two_splits():
    assert not set(CITIES['train']) & set(CITIES['val'])


@pytest.mark.parametrize('split', ['train', 'val'])
def test_mmseg_reads_it(demo_data, options, split):
    dataset = read_dataset(demo_data, split)
    assert len(dataset) == getattr(options, split)
    seen = set()
    for sample in dataset:
        assert sample['img'].shape == (*options.size, 3)
        seen |= set(np.unique(sample['gt_seg_map']).tolist())
    occurring = {ALL_CLASSES.index(c) for c in classes_that_occur()}
    assert seen <= occurring | {255}
    assert {ALL_CLASSES.index(CITYSCAPES_BACKGROUND), 255} < seen


def test_mmseg_reads_it_with_the_compact_classes(demo_data):
    full = read_dataset(demo_data, 'val')
    compact = read_dataset(demo_data, 'val', metainfo=CITYSCAPES_METAINFO)
    lut = np.full(256, 255)
    for index, name in enumerate(CITYSCAPES_METAINFO['classes']):
        lut[ALL_CLASSES.index(name)] = index
    for sample, small in zip(full, compact):
        np.testing.assert_array_equal(
            small['gt_seg_map'], lut[sample['gt_seg_map']]
        )
