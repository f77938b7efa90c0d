# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""configs/ibn: IBN where the paper has it, GTA5's labels, a training step."""

import math
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sn_mm import cli
from sn_mm.checkpoints import ibn_net
from sn_mm.layers import IBN
from tests.paths import CONFIGS

from . import shrunk
from .test_steps import METRICS, runner_of

PATHS = sorted((CONFIGS / 'ibn').glob('*.py'))
# numbers of Cityscapes' 19 classes among all of its classes
IDS = (7, 8, 11, 12, 13, 17, 19, 20, *range(21, 29), 31, 32, 33)


@pytest.fixture(autouse=True)
def demo_data(tiny_demo_data, monkeypatch):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))


def variant_of(path: Path) -> str:
    return path.name.split('ibn-')[1][0]


def built(path: Path) -> nn.Module:
    cfg = shrunk.without_pretrained(shrunk.load(path))
    scope = cli.register_toolbox(cfg)
    with torch.device('meta'):
        with MODELS.switch_scope_and_registry(scope) as models:
            return models.build(cfg.model)


def test_there_are_some():
    assert len(PATHS) == 6
    assert {variant_of(path) for path in PATHS} == {'a', 'b'}


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_placement(path):
    backbone = built(path).backbone
    for number, name in enumerate(backbone.res_layers, 1):
        stage = getattr(backbone, name)
        for i, block in enumerate(stage):
            in_a = variant_of(path) == 'a' and number < 4
            assert isinstance(block.bn1, IBN) == in_a
            assert not in_a or block.bn1.is_placed
            is_last = i == len(stage) - 1
            in_b = variant_of(path) == 'b' and number < 3 and is_last
            assert hasattr(block, 'IN') == in_b
    is_instance = isinstance(backbone.bn1, nn.InstanceNorm2d)
    assert is_instance == (variant_of(path) == 'b')
    assert isinstance(backbone.layer4[0].bn1, _BatchNorm)


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_starts_from_a_released_file_of_its_kind(path):
    cfg = shrunk.load(path)
    init = cfg.model.backbone.get('init_cfg')
    if 'demo' in path.name:
        assert not init or 'checkpoint' not in init
        return
    name = init['checkpoint'].removeprefix('ibn://')
    assert name in ibn_net.RELEASED
    assert name.endswith(f'_ibn_{variant_of(path)}')
    assert f'resnet{cfg.model.backbone.depth}_' in name
    assert cfg.model.get('pretrained') is None


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'path',
    [p for p in PATHS if 'mask' not in p.name],
    ids=lambda path: path.stem,
)
def test_trains_and_evaluates(path, data_folder, gta5, tmp_path, monkeypatch):
    monkeypatch.chdir(data_folder)
    cfg = shrunk.shrink(shrunk.load(path), tmp_path)
    if 'gta5' in path.name:
        cfg.train_dataloader.dataset.data_root = str(gta5)
    runner = runner_of(cfg)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'IBN by norm_cfg')
        runner.train()
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    assert f'val/{METRICS[cfg.default_scope]}' in scalars


@pytest.fixture(scope='module')
def gta5(data_folder, tmp_path_factory) -> Path:
    """Scenes of the demo with labels as GTA5's: numbers of all classes."""
    root = tmp_path_factory.mktemp('gta5')
    (root / 'images').mkdir()
    (root / 'labels').mkdir()
    table = np.zeros(256, np.uint8)  # 'unlabeled', for what is ignored
    table[: len(IDS)] = IDS
    scenes = (data_folder / 'data/cityscapes/leftImg8bit/train').rglob('*.png')
    for number, scene in enumerate(sorted(scenes), 1):
        shutil.copy(scene, root / f'images/{number:05}.png')
        label = str(scene).replace('leftImg8bit/', 'gtFine/')
        label = label.replace('_leftImg8bit', '_gtFine_labelTrainIds')
        trained = cv2.imread(label, cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(root / f'labels/{number:05}.png'), table[trained])
    return root


def test_labels_of_gta5_become_those_that_are_trained(gta5, data_folder):
    from mmseg.datasets import CityscapesDataset

    from sn_mm.datasets.gta5 import GTA5Dataset

    steps = ('LoadImageFromFile', 'LoadAnnotations')
    pipeline = [dict(type=f'mmseg.{step}') for step in steps]
    game = GTA5Dataset(data_root=str(gta5), pipeline=pipeline)
    city = CityscapesDataset(
        data_root=str(data_folder / 'data/cityscapes'),
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'
        ),
        pipeline=pipeline,
    )
    assert game.metainfo['classes'] == city.metainfo['classes']
    assert len(game) == len(city) > 0
    names = sorted(range(len(city)), key=lambda i: city[i]['img_path'])
    for i, j in enumerate(names):
        got, want = game[i]['gt_seg_map'], city[j]['gt_seg_map']
        assert np.array_equal(got, want) and len(np.unique(want)) > 1
