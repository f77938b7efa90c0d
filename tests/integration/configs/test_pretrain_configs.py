# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ImageNet pretraining, and what its checkpoints are for."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, RUNNERS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

import sn_mm
from sn_mm.cli import register_toolbox
from sn_mm.datasets import DataCheckedRunner, DataError
from tests.builders import (
    build,
    faster_rcnn,
    segmentor_config,
)
from tests.paths import ROOT, python_path

FOLDER = ROOT / 'configs/pretrain'
CONFIGS = sorted(FOLDER.glob('*.py'))
NAME = re.compile(
    r'resnet(50|101)_(sn|sn-nobn|syncsn|gn|bn)_8xb(\d+)(-coslr)?_in1k'
)
NORMS = {
    'sn': sn_mm.SN2d,
    'sn-nobn': sn_mm.SN2d,
    'syncsn': sn_mm.SyncSN,
    'gn': nn.GroupNorm,
    'bn': nn.BatchNorm2d,
}
ANY_NORM = (_NormBase, nn.GroupNorm)


def why_not():
    """mmpretrain imports torchvision, built for one torch only."""
    if importlib.util.find_spec('mmpretrain') is None:
        return 'mmpretrain is not installed: see configs/pretrain/README.md'
    try:
        importlib.import_module('mmpretrain')
    except (ImportError, RuntimeError, AssertionError) as error:
        return f'mmpretrain does not load here: {error}'
    return None


needs_mmpretrain = pytest.mark.skipif(
    why_not() is not None, reason=str(why_not())
)


def parts(stem):
    depth, norm, images, cosine = NAME.fullmatch(stem).groups()
    return int(depth), norm, int(images), bool(cosine)


# -- names and lists -----------------------------------------------------
def test_every_batch_has_every_norm():
    found = {parts(path.stem) for path in CONFIGS}
    assert len(found) == len(CONFIGS)
    wanted = {
        (50, 'sn-nobn' if (norm, n) == ('sn', 1) else norm, n, False)
        for norm in ('sn', 'syncsn', 'gn', 'bn')
        for n in (32, 16, 8, 4, 2, 1)
    }
    for norm in ('sn', 'syncsn', 'gn', 'bn'):
        wanted |= {(50, norm, 32, True), (101, norm, 32, False)}
    assert found == wanted


def test_every_start_of_other_configs_is_made_here():
    starts = {
        name
        for path in (ROOT / 'configs').rglob('*.py')
        for name in re.findall(r"'(resnet[\w-]*_in1k)\.pth'", path.read_text())
    }
    assert 'resnet50_sn_8xb2_in1k' in starts
    made = {path.stem for path in (ROOT / 'configs').rglob('*_in1k.py')}
    assert starts <= made


def test_metafile_and_readme():
    meta = yaml.safe_load((FOLDER / 'metafile.yml').read_text())
    (collection,) = meta['Collections']
    assert (ROOT / collection['README']).is_file()
    models = {model['Name']: model for model in meta['Models']}
    assert set(models) == {path.stem for path in CONFIGS}
    readme = (FOLDER / 'README.md').read_text()
    for name, model in models.items():
        assert model['In Collection'] == collection['Name']
        assert ROOT / model['Config'] == FOLDER / f'{name}.py'
        images = parts(name)[2]
        assert model['Metadata']['Batch Size'] == 8 * images
        assert f'[{name}]({name}.py)' in readme
        for result in model['Metadata'].get('Paper Results', ()):
            top1 = result['Metrics']['Top 1 Accuracy']
            assert f'{top1}% top-1' in (FOLDER / f'{name}.py').read_text()


# -- settings ------------------------------------------------------------
@needs_mmpretrain
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_settings(path):
    depth, norm, images, cosine = parts(path.stem)
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr.base_batch_size == 8 * images
    assert cfg.train_cfg.max_epochs == 100
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'SGD' and optimizer.momentum == 0.9
    assert optimizer.lr == pytest.approx(0.1 * 8 * images / 256)
    assert optimizer.weight_decay == 1e-4
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    if cosine:
        warm_up, schedule = cfg.param_scheduler
        assert warm_up.end == schedule.begin and schedule.end == 100
        assert schedule.type == 'CosineAnnealingLR'
    else:
        assert cfg.param_scheduler.milestones == [30, 60, 90]
        assert cfg.param_scheduler.gamma == 0.1
    backbone = cfg.model.backbone
    assert backbone.depth == depth
    single = norm == 'sn-nobn'
    assert (backbone.norm_cfg.get('statistics') == ('in', 'ln')) == single
    hooks = [hook.type for hook in cfg.get('custom_hooks', ())]
    averages = norm in ('sn', 'syncsn')
    assert hooks == (['BatchAverageHook'] if averages else [])


@needs_mmpretrain
@pytest.mark.parametrize('norm', NORMS)
def test_norms_and_weight_decay(norm):
    images = 1 if norm == 'sn-nobn' else 32
    cfg = Config.fromfile(FOLDER / f'resnet50_{norm}_8xb{images}_in1k.py')
    with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
        model = MODELS.build(cfg.model)
        model.init_weights()
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    norms = [m for m in model.modules() if isinstance(m, ANY_NORM)]
    assert len(norms) == 53
    assert {type(m) for m in norms} == {NORMS[norm]}
    for m in norms:
        assert bool((m.weight == 1).all()) and not m.bias.any()
        if isinstance(m, sn_mm.SN2d):
            assert bool((m.mean_weight == 1).all())
            assert len(m.var_weight) == (2 if norm == 'sn-nobn' else 3)
    groups = optimizer.param_groups
    assert {group['weight_decay'] for group in groups} == {1e-4}
    decayed = {id(p) for group in groups for p in group['params']}
    assert decayed == {id(p) for p in model.parameters()}


# -- from pretraining to detectors and segmentors --------------------------
@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """ImageNet's folders with a picture for each of 1000 classes."""
    root = tmp_path_factory.mktemp('imagenet')
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in range(1000):
            folder = root / split / f'n{label:08}'
            folder.mkdir(parents=True)
            picture = rng.integers(0, 256, (36, 40, 3), np.uint8)
            cv2.imwrite(str(folder / f'{split}_{label}.JPEG'), picture)
    return root


def tiny(path, root, work_dir, channels=8):
    """A config with an eighth of the channels, on a few pictures."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(
        {
            'model.backbone': dict(
                depth=18, stem_channels=channels, base_channels=channels
            ),
            'model.head.in_channels': 8 * channels,
            'train_cfg.max_epochs': 1,
            'randomness.seed': 0,
        }
    )
    for key, images in (('train', 8), ('val', 4), ('test', 4)):
        loader = cfg[f'{key}_dataloader']
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=str(root), indices=images)
        for step in loader.dataset.pipeline:
            for name in ('scale', 'crop_size'):
                if name in step:
                    step[name] = 32
    cfg.work_dir = str(work_dir)
    cfg.launcher = 'none'
    cfg.experiment_name = uuid.uuid4().hex
    return cfg


@pytest.fixture(scope='module')
def pretrained(imagenet, tmp_path_factory):
    """Checkpoint of a tiny network after an epoch, by norm."""
    files = {}

    def train(norm):
        if norm not in files:
            images = 1 if norm == 'sn-nobn' else 2
            path = FOLDER / f'resnet50_{norm}_8xb{images}_in1k.py'
            work_dir = tmp_path_factory.mktemp(norm)
            channels = 32 if norm == 'gn' else 8
            cfg = tiny(path, imagenet, work_dir, channels)
            with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
                runner = RUNNERS.build(cfg)
                assert isinstance(runner, DataCheckedRunner)
                runner.train()
            files[norm] = work_dir / 'epoch_1.pth'
        return files[norm]

    return train


def assert_started(model, file, norm):
    """All of the backbone is what pretraining left, and something is."""
    saved = torch.load(file, map_location='cpu')['state_dict']
    wanted = {
        key[len('backbone.') :]: value
        for key, value in saved.items()
        if key.startswith('backbone.')
    }
    own = model.backbone.state_dict()
    assert own.keys() == wanted.keys()
    for key, value in own.items():
        assert torch.equal(value, wanted[key]), key
    moved = [
        key
        for key in own
        if key.endswith('mean_weight') and (own[key] != 1).any()
    ]
    assert bool(moved) == ('sn' in norm)


@needs_mmpretrain
@pytest.mark.parametrize('norm', NORMS)
def test_checkpoints_start_detectors_and_segmentors(norm, pretrained):
    file = pretrained(norm)
    norm_cfg = dict(type=dict(gn='GN', bn='BN', syncsn='SyncSN').get(norm))
    if norm == 'gn':
        norm_cfg['num_groups'] = 32
    elif norm.startswith('sn'):
        norm_cfg['type'] = 'SN'
    if norm == 'sn-nobn':
        norm_cfg['statistics'] = ('in', 'ln')
    channels = 32 if norm == 'gn' else 8
    backbone = dict(
        base_channels=channels,
        stem_channels=channels,
        init_cfg=dict(
            type='Pretrained', checkpoint=str(file), prefix='backbone.'
        ),
    )
    # the other parts are too narrow for 32 groups
    wide = [channels * n for n in (1, 2, 4, 8)]
    cfg = segmentor_config('deeplabv3', dict(type='SN'))
    cfg.model.backbone.update(backbone, norm_cfg=norm_cfg)
    cfg.model.decode_head.in_channels = wide[3]
    cfg.model.auxiliary_head.in_channels = wide[2]
    assert_started(build('mmseg', cfg.model), file, norm)
    if norm != 'gn':
        detector = faster_rcnn(norm_cfg, **backbone)
        assert_started(detector, file, norm)


@needs_mmpretrain
def test_syncsn_takes_the_weights_of_sn(pretrained):
    file = pretrained('sn')
    init_cfg = dict(
        type='Pretrained', checkpoint=str(file), prefix='backbone.'
    )
    model = faster_rcnn(dict(type='SyncSN'), init_cfg=init_cfg)
    assert_started(model, file, 'sn')


STARTED = {
    'faster_rcnn/faster-rcnn_r50_fpn_sn-all_1x_coco.py': '',
    'pspnet/pspnet_r50-d8_syncsn-8x2_8xb2-100k_ade20k-450x450.py': '',
    'faster_rcnn/faster-rcnn_r50_c4_sn-all_4xb3-120k_coco.py': 'layer4.',
}


@needs_mmpretrain
def test_configs_start_from_a_checkpoint_as_it_is(tmp_path, monkeypatch):
    cfg = Config.fromfile(FOLDER / 'resnet50_sn_8xb2_in1k.py')
    with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
        classifier = MODELS.build(cfg.model)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.uniform_(-1, 1)
    file = tmp_path / 'resnet50_sn_8xb2_in1k.pth'
    state = classifier.state_dict()
    torch.save(dict(meta={}, state_dict=state), file)
    monkeypatch.setenv('SN_MM_CHECKPOINTS', str(tmp_path))
    for name, elsewhere in STARTED.items():
        cfg = Config.fromfile(ROOT / 'configs' / name)
        with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
            model = MODELS.build(cfg.model)
            model.init_weights()
        own = model.state_dict()
        for key, value in state.items():
            if key.startswith('head.'):
                continue
            if elsewhere and elsewhere in key:  # conv5 is C4's RoI head
                key = key.replace('backbone.', 'roi_head.shared_head.')
            assert torch.equal(own[key], value), (name, key)
        unset = {
            key
            for key in own
            if key.startswith('backbone.') and key not in state
        }
        assert not unset


@needs_mmpretrain
def test_trains_under_the_own_tool_of_mmpretrain(imagenet, tmp_path):
    import mmpretrain

    cfg = tiny(FOLDER / 'resnet50_sn_8xb4_in1k.py', imagenet, tmp_path)
    cfg.dump(tmp_path / 'own.py')
    tool = Path(mmpretrain.__file__).parent / '.mim/tools/train.py'
    done = subprocess.run(
        [sys.executable, str(tool), str(tmp_path / 'own.py')],
        env=dict(os.environ, PYTHONPATH=python_path(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'batch average: statistics of 20 layers from 2 batches' in (
        done.stdout
    )
    assert 'accuracy/top1' in done.stdout


@needs_mmpretrain
def test_missing_pictures_are_told_of(imagenet, tmp_path):
    path = FOLDER / 'resnet50_sn_8xb2_in1k.py'
    cfg = tiny(path, tmp_path / 'none', tmp_path / 'work')
    with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
        runner = RUNNERS.build(cfg)
        with pytest.raises(DataError, match='image-net.org') as caught:
            runner.train()
    assert f'expected in {tmp_path}/none as train/CLASS' in str(caught.value)
