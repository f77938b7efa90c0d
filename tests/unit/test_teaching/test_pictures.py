# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose

from sn_mm.cli import register_toolbox
from sn_mm.teaching.pictures import (
    PictureBatches,
    Pictures,
    PicturesError,
    alone,
    in_folder,
    of_training_set,
    split,
    test_pipeline,
)
from tests.paths import CONFIGS

test_pipeline.__test__ = False  # a function of the package


def load(results):
    image = cv2.imread(results['img_path'])
    if image is None:
        raise ValueError('no picture\nof any kind')
    return dict(inputs=int(image[0, 0, 0]), data_samples=results['img_id'])


def folder_of(path, count, broken=()):
    (path / 'deeper').mkdir()
    for index in range(count):
        where = path / ('deeper' if index % 2 else '') / f'{index:03}.png'
        if index in broken:
            where.write_bytes(b'no picture')
        else:
            cv2.imwrite(str(where), np.full((8, 8, 3), index, np.uint8))
    (path / 'notes.txt').write_text('nothing')
    return Pictures(in_folder(str(path)), Compose([load]))


def seen(batches):
    return [x for batch in batches for x in batch['inputs']]


def test_every_round_has_every_picture_once(tmp_path):
    pictures = folder_of(tmp_path, 10)
    assert len(pictures.files) == 10
    taught, held_out = split(pictures)
    assert len(held_out) == 2 and not set(taught) & set(held_out)
    batches = PictureBatches(pictures, taught, 2, 8)
    rounds = seen(batches)
    first, second = rounds[:8], rounds[8:]
    assert sorted(first) == sorted(second) and first != second
    assert len(set(first)) == 8
    assert not set(first) & set(seen(alone(pictures, held_out)))


def test_a_batch_depends_on_number_and_seed_alone(tmp_path):
    pictures = folder_of(tmp_path, 9)
    everything = range(9)
    batches = PictureBatches(pictures, everything, 2, 20, seed=1)
    order = [batches[i]['inputs'] for i in range(20)]
    again = PictureBatches(pictures, everything, 2, 20, seed=1)
    assert [again[i]['inputs'] for i in (19, 3, 11)] == [
        order[i] for i in (19, 3, 11)
    ]
    other = PictureBatches(pictures, everything, 2, 20, seed=2)
    assert [b['inputs'] for b in other] != order


def test_unreadable_pictures_are_named_and_skipped(tmp_path):
    pictures = folder_of(tmp_path, 12, broken=(2, 5))
    pictures.check()
    values = seen(PictureBatches(pictures, range(12), 3, 8))
    assert not {2, 5} & set(values) and len(values) == 24
    assert {f.rpartition('/')[2] for f in pictures.unreadable} == {
        '002.png',
        '005.png',
    }
    assert set(pictures.unreadable.values()) == {'no picture'}
    # in the order of their names, 000, 002, 004, ...
    assert seen(alone(pictures, [0, 1, 2])) == [0, 4]


def test_fewer_than_eight_are_refused(tmp_path):
    pictures = folder_of(tmp_path, 9, broken=(0, 4))
    with pytest.raises(PicturesError, match=r'7 of 9 pictures .* at least 8'):
        pictures.check()
    assert '000.png' in next(iter(pictures.unreadable))


def test_eight_are_enough(tmp_path):
    folder_of(tmp_path, 9, broken=(3,)).check()


def test_held_out_pictures_are_sixteen_at_most(tmp_path):
    pictures = folder_of(tmp_path, 40)
    assert len(split(pictures)[1]) == 5
    pictures.files *= 10
    assert len(split(pictures)[1]) == 16


def test_folders_without_pictures(tmp_path):
    with pytest.raises(PicturesError, match='not a folder'):
        in_folder(str(tmp_path / 'none'))
    with pytest.raises(PicturesError, match='has no picture'):
        in_folder(str(tmp_path))


@pytest.fixture
def demo_config(tiny_demo_data, monkeypatch):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))

    def load_config(name):
        cfg = Config.fromfile(CONFIGS / 'demo' / name)
        return cfg, register_toolbox(cfg)

    return load_config


@pytest.mark.parametrize(
    'name, shape',
    [
        ('faster-rcnn_r18_fpn_sn-all_demo.py', (3, 64, 96)),
        ('pspnet_r18-d8_sn-all_demo-160x192.py', (3, 64, 96)),
    ],
)
def test_a_configs_own_training_pictures(demo_config, name, shape):
    """Through the pipeline of tests, which then reads no label."""
    cfg, scope = demo_config(name)
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = (
        dict(type='RepeatDataset', times=2, dataset=dataset, _scope_=scope)
        if scope == 'mmseg'
        else dataset
    )
    files = of_training_set(cfg, scope)
    assert len(files) == len(set(files)) == 4
    assert all('train' in f for f in files)
    packed = Pictures(files, test_pipeline(cfg, scope)).load(0)
    assert packed['inputs'].shape == shape
    sample = packed['data_samples']
    assert sample.img_path == files[0]
    assert not len(getattr(sample, 'gt_instances', ()))
    assert 'gt_sem_seg' not in sample


def test_the_test_pipelines_resizing_is_kept(demo_config):
    cfg, scope = demo_config('faster-rcnn_r18_fpn_sn-all_demo.py')
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[1] = dict(type='Resize', scale=(48, 32), keep_ratio=True)
    files = of_training_set(cfg, scope)
    packed = Pictures(files, test_pipeline(cfg, scope)).load(1)
    assert packed['inputs'].shape == (3, 32, 48)
    assert packed['data_samples'].scale_factor == (0.5, 0.5)


def test_configs_without_data(demo_config):
    cfg, scope = demo_config('faster-rcnn_r18_fpn_sn-all_demo.py')
    cfg.train_dataloader.dataset.data_root = 'nowhere/'
    cfg.train_dataloader.dataset.ann_file = 'nowhere/at_all.json'
    with pytest.raises(PicturesError, match='name a folder of pictures'):
        of_training_set(cfg, scope)
    cfg.train_dataloader = None
    with pytest.raises(PicturesError, match='no train_dataloader'):
        of_training_set(cfg, scope)
    for key in ('test_dataloader', 'val_dataloader', 'test_pipeline'):
        cfg[key] = None
    with pytest.raises(PicturesError, match='no test-time pipeline'):
        test_pipeline(cfg, scope)
