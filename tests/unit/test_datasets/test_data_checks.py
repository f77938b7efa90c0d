# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a run says first where data is missing or incomplete."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
from mmengine.config import Config

from sn_mm.datasets import (
    DataError,
    DataWarning,
    check_dataloaders,
    check_dataset,
)
from tests.datasets import write_ade, write_cityscapes, write_coco

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
ROOTS = {
    'coco': 'data/coco',
    'cityscapes': 'data/cityscapes',
    'ade20k': 'data/ade/ADEChallengeData2016',
}
SOURCES = {
    'coco': 'https://cocodataset.org/#download',
    'cityscapes': 'https://www.cityscapes-dataset.com/downloads',
    'ade20k': 'http://sceneparsing.csail.mit.edu',
}
FOLDERS = {
    'coco': ('annotations/instances_{train,val}2017.json', 'train2017/*.jpg'),
    'cityscapes': ('leftImg8bit/{train,val,test}', 'labelTrainIds.png'),
    'ade20k': ('images/training/*.jpg', 'annotations/{training,validation}'),
}


def toolbox_config(name):
    """The toolbox's own data set, as every config inherits it."""
    if name == 'coco':
        path = Path(mmdet.__file__).parent / '.mim/configs/_base_/datasets'
        return Config.fromfile(path / 'coco_instance.py')
    path = Path(mmseg.__file__).parent / '.mim/configs/_base_/datasets'
    return Config.fromfile(path / f'{name}.py')


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (write_coco, write_cityscapes, write_ade):
        write(tmp_path)
    return tmp_path


def message(name, loaders=LOADERS, **changes):
    cfg = toolbox_config(name)
    cfg.merge_from_dict(changes)
    with pytest.raises(DataError) as caught:
        check_dataloaders(cfg, loaders)
    text = str(caught.value)
    assert '\n' not in text
    return text


def assert_helpful(text, name):
    """The folder expected, its layout, and where to get the data."""
    assert f'is expected in {ROOTS[name]}' in text
    assert SOURCES[name] in text
    for part in FOLDERS[name]:
        assert part in text
    assert 'data_root' in text


# -- whole, or not there -------------------------------------------------
@pytest.mark.parametrize('name', ROOTS)
def test_whole(folder, name):
    check_dataloaders(toolbox_config(name), LOADERS)


@pytest.mark.parametrize('name', ROOTS)
def test_missing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text = message(name)
    assert text.startswith('data of train_dataloader not found: data/')
    assert_helpful(text, name)


@pytest.mark.parametrize(
    ('name', 'part', 'loader'),
    [
        ('coco', 'val2017', 'val_dataloader'),
        ('coco', 'annotations/instances_train2017.json', 'train_dataloader'),
        ('cityscapes', 'gtFine/val', 'val_dataloader'),
        ('cityscapes', 'leftImg8bit/train', 'train_dataloader'),
        ('ade20k', 'annotations/training', 'train_dataloader'),
    ],
)
def test_a_part_is_missing(folder, name, part, loader):
    path = folder / ROOTS[name] / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = message(name)
    assert f'data of {loader} not found: {ROOTS[name]}/' in text
    assert part in text.partition(';')[0]
    assert_helpful(text, name)


# -- incomplete ----------------------------------------------------------
@pytest.mark.parametrize(
    ('name', 'file', 'what'),
    [
        (
            'coco',
            'train2017/000000000002.jpg',
            'train2017/ lacks 1 of the 3 pictures that '
            'data/coco/annotations/instances_train2017.json has, such as '
            '000000000002.jpg',
        ),
        (
            'ade20k',
            'annotations/validation/ADE_1.png',
            'annotations/validation lacks 1 of the 1 label maps',
        ),
        (
            'cityscapes',
            'gtFine/val/tinytown/'
            'tinytown_000000_000019_gtFine_labelTrainIds.png',
            'cityscapesscripts.preparation.createTrainIdLabelImgs makes them',
        ),
        (
            'cityscapes',
            'leftImg8bit/train/tinytown/'
            'tinytown_000000_000019_leftImg8bit.png',
            'leftImg8bit/train has no *_leftImg8bit.png',
        ),
    ],
)
def test_a_picture_is_missing(folder, name, file, what):
    (folder / ROOTS[name] / file).unlink()
    text = message(name)
    assert what in text
    assert_helpful(text, name)


def test_one_of_two_label_maps_is_missing(folder):
    images = folder / ROOTS['ade20k'] / 'images/training'
    shutil.copy(images / 'ADE_1.jpg', images / 'ADE_2.jpg')
    text = message('ade20k')
    assert 'lacks 1 of the 2 label maps' in text and 'ADE_2.png' in text


def test_label_maps_of_a_list_alone(folder):
    images = folder / ROOTS['ade20k'] / 'images/training'
    shutil.copy(images / 'ADE_1.jpg', images / 'ADE_2.jpg')
    (folder / ROOTS['ade20k'] / 'some.txt').write_text('ADE_1')
    cfg = toolbox_config('ade20k')
    cfg.train_dataloader.dataset.ann_file = 'some.txt'
    check_dataloaders(cfg, LOADERS)


@pytest.mark.parametrize(
    ('content', 'what'),
    [
        ('', 'is empty'),
        ('{"images": [{"file_name": "000000000001.jpg"}, {"file', 'truncated'),
        ('{"images": []}', 'lists no pictures'),
    ],
)
def test_broken_annotation_file(folder, content, what):
    file = folder / 'data/coco/annotations/instances_val2017.json'
    file.write_text(content)
    text = message('coco', LOADERS[1:])
    assert what in text and str(file.name) in text
    assert_helpful(text, 'coco')


@pytest.mark.parametrize('ascii_only', [True, False])
def test_names_are_read_as_json_has_them(folder, ascii_only):
    file = folder / 'data/coco/annotations/instances_val2017.json'
    content = json.loads(file.read_text())
    content['images'][0]['file_name'] = 'a "b"/ü.jpg'
    text = json.dumps(content, indent=1, ensure_ascii=ascii_only)
    file.write_text(text, encoding='utf-8')
    target = folder / 'data/coco/val2017/a "b"'
    target.mkdir()
    (target / 'ü.jpg').touch()
    check_dataloaders(toolbox_config('coco'), LOADERS)


# -- evaluators ----------------------------------------------------------
def test_annotation_file_of_the_evaluator(folder):
    file = 'data/coco/annotations/image_info_test-dev2017.json'
    (folder / file).unlink()
    text = message('coco', **{'test_evaluator.ann_file': file})
    assert f'data of test_evaluator not found: {file}' in text
    assert_helpful(text, 'coco')


def test_label_ids_of_the_official_evaluation(folder):
    official = dict(type='CityscapesMetric', output_dir='out')
    cfg = toolbox_config('cityscapes')
    cfg.val_evaluator = [cfg.val_evaluator, official]
    check_dataloaders(cfg, LOADERS)
    for path in folder.rglob('val/*/*_instanceIds.png'):
        path.unlink()
    with pytest.raises(DataError, match='gtFine_instanceIds.png'):
        check_dataloaders(cfg, LOADERS)
    check_dataloaders(cfg, ('train_dataloader', 'test_dataloader'))


def test_evaluator_of_another_file_than_the_data(folder):
    """The base's file, left in by an own data set, and a file of others."""
    cfg = toolbox_config('coco')
    annotations = folder / 'data/coco/annotations'
    own = annotations / 'own.json'
    shutil.copy(annotations / 'instances_val2017.json', own)
    cfg.val_dataloader.dataset.ann_file = 'annotations/own.json'
    with pytest.warns(DataWarning, match='set both to the same file'):
        check_dataloaders(cfg, LOADERS)
    cfg.val_evaluator.ann_file = 'data/coco/annotations/gone.json'
    with pytest.raises(DataError) as caught:
        check_dataloaders(cfg, LOADERS)
    text = str(caught.value)
    assert (
        'set ann_file of val_evaluator to the file of val_dataloader' in text
    )
    assert text.endswith('own.json') and 'cocodataset.org' not in text


# -- what is passed over, and what is inside of wrappers ------------------
def test_wrapped_data_sets(folder):
    cfg = toolbox_config('coco')
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[inner, inner]),
    )
    check_dataloaders(cfg, LOADERS)
    (folder / 'data/coco/train2017/000000000003.jpg').unlink()
    with pytest.raises(DataError, match='000000000003.jpg'):
        check_dataloaders(cfg, LOADERS)


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='CocoDataset', data_root='s3://bucket/coco/'),
        dict(
            type='CocoDataset',
            data_root='none',
            backend_args=dict(backend='petrel'),
        ),
        dict(type='MadeUp'),
    ],
)
def test_data_elsewhere_is_passed_over(dataset):
    check_dataset(dataset)
    check_dataloaders({}, LOADERS)


def test_unknown_kinds_are_looked_for(tmp_path):
    with pytest.raises(DataError, match='put the data there, or set'):
        check_dataset(dict(type='MadeUp', data_root=str(tmp_path / 'none')))


# -- under the toolboxes' own tools --------------------------------------
@pytest.mark.parametrize(
    ('toolbox', 'base', 'name'),
    [
        (mmdet, 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'coco'),
        (
            mmseg,
            'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
            'cityscapes',
        ),
    ],
    ids=['mmdet', 'mmseg'],
)
def test_first_error_of_the_toolbox_tool(
    tmp_path, monkeypatch, toolbox, base, name
):
    tools = Path(toolbox.__file__).parent / '.mim'
    scratch = ', backbone=dict(init_cfg=None)'
    (tmp_path / 'own.py').write_text(
        f'_base_ = {str(tools / "configs" / base)!r}\n'
        "custom_imports = dict(imports=['sn_mm'])\n"
        "runner_type = 'DataCheckedRunner'\n"
        'norm_cfg = dict(type="SN")\n'
        'model = dict(data_preprocessor=dict(batch_augments=None)'
        f'{scratch if toolbox is mmdet else ", pretrained=None"})\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', 'own.py'])
    with pytest.raises(DataError) as caught:
        runpy.run_path(str(tools / 'tools/train.py'), run_name='__main__')
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    assert_helpful(str(error), name)
