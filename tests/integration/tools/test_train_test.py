# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Train, resume and test, by this repository's tools and the toolboxes' own.

Runs are a few steps long, on four small pictures.
"""

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, build_optim_wrapper
from mmengine.registry import METRICS, TRANSFORMS

import sn_mm  # noqa: F401, for configs of the onedl packages
from sn_mm.cli import (
    dump_predictions,
    enable_tta,
    load_config,
    register_toolbox,
    training,
)
from tests.paths import ROOT, TOOLS, python_path
from tests.utils import instances_of_its_own

DEMO = ROOT / 'configs/demo'
FASTER_RCNN = DEMO / 'faster-rcnn_r18_fpn_sn-all_demo.py'
MASK_RCNN = DEMO / 'mask-rcnn_r18_fpn_sn-all_demo.py'
DEEPLAB = DEMO / 'deeplabv3_r18-d8_sn-all_demo-160x192.py'
PSPNET = DEMO / 'pspnet_r18-d8_sn-all_demo-160x192.py'

# Four steps, with a checkpoint after two of them and after the last. mmengine
# keeps no state of random generators in checkpoints: what draws at random
# while training is off, so that a resumed run can do the very same steps.
DET_OPTIONS = (
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=1',
    'model.train_cfg.rpn.sampler.num=100000',
    'model.train_cfg.rcnn.sampler.num=100000',
)
SEG_OPTIONS = (
    'train_cfg.max_iters=4',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'model.decode_head.dropout_ratio=0',
    'model.auxiliary_head.dropout_ratio=0',
)


class Case:
    """A config, the options that make it tiny, and its checkpoints."""

    def __init__(self, toolbox, config, options, half, last):
        self.toolbox = toolbox
        self.config = str(config)
        self.options = options
        self.half = half
        self.last = last
        self.own_tools = Path(toolbox.__file__).parent / '.mim/tools'


# Two steps, and a checkpoint after the last.
DET_SHORT = (
    'train_cfg.max_epochs=1',
    'train_cfg.val_interval=1',
    'default_hooks.checkpoint.interval=1',
)
SEG_SHORT = (
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
)


DET = Case(mmdet, FASTER_RCNN, DET_OPTIONS, 'epoch_1.pth', 'epoch_2.pth')
SEG = Case(mmseg, PSPNET, SEG_OPTIONS, 'iter_2.pth', 'iter_4.pth')
BOTH = pytest.mark.parametrize('case', (DET, SEG), ids=('mmdet', 'mmseg'))


@pytest.fixture(autouse=True)
def demo_data(tiny_demo_data, monkeypatch):
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))


@pytest.fixture(scope='module')
def trained(tiny_demo_data, tmp_path_factory):
    """Work folders of finished runs of tools/train.py, made when asked for."""
    folders = {}

    def train(case):
        if case not in folders:
            folder = tmp_path_factory.mktemp('trained')
            arguments = [case.config, '--work-dir', str(folder)]
            arguments += ['--cfg-options', *case.options]
            if case is DET:  # as users call it; the other one in no time
                run(TOOLS / 'train.py', *arguments, data=tiny_demo_data)
            else:
                own = pytest.MonkeyPatch.context()
                with own as patch, instances_of_its_own():
                    patch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
                    assert main_of('train')(arguments) == 0
            folders[case] = folder
        return folders[case]

    return train


def run(script, *args, data=None):
    """Run a Python script in a process of its own; gives what it printed."""
    env = dict(os.environ, PYTHONPATH=python_path(ROOT))
    if data is not None:
        env['SN_MM_DEMO_DATA'] = str(data)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def main_of(tool):
    spec = importlib.util.spec_from_file_location(
        f'tool_{tool}', TOOLS / f'{tool}.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def error_of(tool, *args):
    """The message that a tool ends with."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        assert main_of(tool)([str(arg) for arg in args]) == 1
    message = stderr.getvalue().rstrip('\n').rpartition('error: ')
    assert message[1] and '\n' not in message[2]
    return ''.join(message[1:])


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def tensors(tree, prefix=''):
    """All tensors of nested containers, by path."""
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        return {}
    found = {}
    for key, value in items:
        found.update(tensors(value, f'{prefix}/{key}'))
    return found


def assert_drawn(folder, count):
    """That pictures with colour in them are in a folder.

    Those of the tiny data, 64 x 96, are five times as large, truth and
    prediction side by side below captions.
    """
    pictures = sorted(path for path in Path(folder).iterdir())
    assert len(pictures) == count
    for path in pictures:
        image = cv2.imread(str(path))
        assert image.shape[1] == 2 * 5 * 96 + 8
        assert 5 * 64 < image.shape[0] < 5 * 64 + 100
        assert np.ptp(image) > 50


# -- this repository's tools ---------------------------------------------
@BOTH
def test_resumed_run_reaches_the_same_weights(case, trained, tmp_path):
    whole = trained(case)
    # as left by a run that was stopped half-way
    shutil.copy(whole / case.half, tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / case.half))
    args = ['--work-dir', str(tmp_path), '--cfg-options', *case.options]
    main_of('train')([case.config, '--resume', *args])

    half, last = load(whole / case.half), load(whole / case.last)
    resumed = load(tmp_path / case.last)
    expected = tensors([last['state_dict'], last['optimizer']])
    reached = tensors([resumed['state_dict'], resumed['optimizer']])
    assert reached.keys() == expected.keys()
    differ = [k for k in expected if not expected[k].equal(reached[k])]
    assert differ == []
    # ... which are not those that it started from
    moved = [
        not value.equal(last['state_dict'][key])
        for key, value in half['state_dict'].items()
    ]
    assert sum(moved) > 0.9 * len(moved)


def logged(work_dir):
    """What a run of this process wrote to its log."""
    (log,) = work_dir.glob('*/*.log')
    return log.read_text()


def test_draws_and_dumps_detections(trained, tmp_path, capsys):
    args = (
        DET.config,
        trained(DET) / DET.last,
        '--work-dir',
        tmp_path / 'work',
        '--out',
        tmp_path / 'out.pkl',
        '--show-dir',
        tmp_path / 'pictures',
        '--cfg-options',
        # untrained: draw whatever there is
        'default_hooks.visualization.score_thr=0.0',
        'model.test_cfg.rcnn.score_thr=0.0',
    )
    assert main_of('test')([str(arg) for arg in args]) == 0
    assert f'pictures: {tmp_path / "pictures"}' in capsys.readouterr().out
    assert 'bbox_mAP_copypaste' in logged(tmp_path / 'work')
    assert_drawn(tmp_path / 'pictures', count=2)
    samples = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert len(samples) == 2
    assert all(len(sample['pred_instances']['bboxes']) for sample in samples)


def test_draws_and_dumps_segmentation(trained, tmp_path, capsys):
    args = (
        SEG.config,
        trained(SEG) / SEG.last,
        '--work-dir',
        tmp_path / 'work',
        '--out',
        tmp_path / 'maps',
        '--show-dir',
        tmp_path / 'pictures',
    )
    assert main_of('test')([str(arg) for arg in args]) == 0
    printed = capsys.readouterr().out
    (line,) = (
        line for line in printed.splitlines() if line.startswith('pictures: ')
    )
    assert_drawn(line[len('pictures: ') :], count=2)
    assert 'mIoU' in logged(tmp_path / 'work')
    maps = sorted((tmp_path / 'maps').glob('*.png'))
    assert len(maps) == 2
    for path in maps:
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (64, 96)


@BOTH
def test_augments_when_testing(case, trained, tmp_path):
    main_of('test')(
        [
            case.config,
            str(trained(case) / case.last),
            '--tta',
            '--work-dir',
            str(tmp_path),
        ]
    )
    (scores,) = tmp_path.glob('*/*.json')
    text = scores.read_text()
    assert 'coco/bbox_mAP' in text or 'mIoU' in text
    (config,) = tmp_path.glob('*.py')
    assert 'TTAModel' in config.read_text()


# -- the toolboxes' own tools --------------------------------------------
# one process, which has not imported sn_mm, for both: importing takes longest
BOTH_TOOLS = """
import os, runpy, sys
for tool, *arguments in {calls!r}:
    if tool == 'test.py':
        print('-- tested --', flush=True)
    sys.argv = [tool, *arguments]
    runpy.run_path(os.path.join({tools!r}, tool), run_name='__main__')
"""


@pytest.mark.parametrize(
    'case',
    (
        Case(mmdet, MASK_RCNN, DET_SHORT, None, 'epoch_1.pth'),
        # in a process that has imported sn_mm: configs/test_toolbox_tools.py
        pytest.param(
            Case(mmseg, DEEPLAB, SEG_SHORT, None, 'iter_2.pth'),
            marks=pytest.mark.slow,
        ),
    ),
    ids=('mmdet', 'mmseg'),
)
def test_runs_under_the_toolbox_own_tools(case, tmp_path):
    work = ('--work-dir', str(tmp_path / 'work'))
    config = str(for_own_tools(case, tmp_path))
    checkpoint = tmp_path / 'work' / case.last
    calls = [
        ('train.py', config, *work, '--cfg-options', *case.options),
        ('test.py', config, str(checkpoint), *work),
    ]
    script = tmp_path / 'both.py'
    script.write_text(
        BOTH_TOOLS.format(tools=str(case.own_tools), calls=calls)
    )
    printed = run(script).rpartition('-- tested --')[2]
    state = load(checkpoint)['state_dict']
    assert any(key.endswith('sn1.mean_weight') for key in state)
    score = 'segm_mAP_copypaste' if case.toolbox is mmdet else 'mIoU'
    assert score in printed


def for_own_tools(case, folder):
    """The config; with the onedl packages, mmseg's written out first.

    onedl-mmengine finds no `mmseg::` before sn_mm is imported (README).
    """
    try:
        importlib.metadata.distribution('mmsegmentation')
    except importlib.metadata.PackageNotFoundError:
        if case.toolbox is mmseg:
            Config.fromfile(case.config).dump(folder / 'flat.py')
            return folder / 'flat.py'
    return case.config


# -- what the user may get wrong -----------------------------------------
@pytest.mark.parametrize('tool', ('train', 'test'))
def test_missing_config(tool, tmp_path):
    args = ['x.pth'] if tool == 'test' else []
    message = error_of(tool, tmp_path / 'none.py', *args)
    assert 'none.py not found' in message


def test_missing_base_config(tmp_path):
    (tmp_path / 'config.py').write_text("_base_ = 'none.py'")
    assert 'none.py' in error_of('train', tmp_path / 'config.py')


def test_config_that_is_no_python(tmp_path):
    (tmp_path / 'config.py').write_text('model = dict(')
    assert 'cannot be read' in error_of('train', tmp_path / 'config.py')


@BOTH
def test_missing_checkpoint(case, tmp_path):
    missing = tmp_path / 'none.pth'
    for args in (
        ('test', case.config, missing),
        ('train', case.config, '--resume', missing),
        ('train', case.config, '--cfg-options', f'load_from={missing}'),
    ):
        assert 'none.pth not found' in error_of(*args)


@pytest.mark.parametrize('scope', ('mmnone', 'json', 'sn_mm'))
def test_unknown_toolbox(scope, tmp_path):
    option = f'default_scope={scope}'
    message = error_of('train', DET.config, '--cfg-options', option)
    assert f"default_scope='{scope}'" in message


@BOTH
def test_missing_demo_data(case, tmp_path, monkeypatch):
    monkeypatch.delenv('SN_MM_DEMO_DATA')
    monkeypatch.chdir(tmp_path)
    message = error_of('train', case.config)
    assert 'data/demo/' in message
    assert 'python tools/make_demo_data.py data/demo' in message


def test_missing_data(tmp_path):
    key = 'train_dataloader.dataset.data_root'
    option = f'{key}={tmp_path}/none'
    message = error_of('train', DET.config, '--cfg-options', option)
    assert f'{tmp_path}/none' in message
    assert 'data_root' in message


def test_missing_annotations(tiny_demo_data):
    option = 'val_dataloader.dataset.ann_file=annotations/none.json'
    message = error_of('train', DET.config, '--cfg-options', option)
    assert 'annotations/none.json' in message
    assert 'val_dataloader' in message


@pytest.mark.skipif(torch.cuda.is_available(), reason='has a GPU')
def test_amp_without_gpu():
    assert 'needs a GPU' in error_of('train', DET.config, '--amp')


def test_amp_with_another_optimizer_wrapper():
    option = 'optim_wrapper.type=ApexOptimWrapper'
    message = error_of('train', DET.config, '--amp', '--cfg-options', option)
    assert 'ApexOptimWrapper' in message


# -- configs in pure Python ----------------------------------------------
LAZY = """
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from torch.optim import SGD
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric
from mmdet.models import RetinaNet
from mmcv.transforms import LoadImageFromFile

model = dict(type=RetinaNet)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type=CocoDataset,
        data_root=ROOT,
        ann_file='ann.json',
        data_prefix=dict(img='train2017/'),
        metainfo=dict(classes=('zero',)),
        pipeline=[dict(type=LoadImageFromFile), dict(type=PackDetInputs)],
    ),
)
test_dataloader = val_dataloader = train_dataloader
test_evaluator = dict(type=CocoMetric, ann_file=ROOT + '/ann.json')
"""


@pytest.fixture
def lazy_config(tmp_path, tiny_demo_data):
    """A toolbox's config of classes, with data of the demo's."""
    root = tiny_demo_data / 'coco'
    file = root / 'annotations/instances_train2017.json'
    (tmp_path / 'train2017').symlink_to(root / 'train2017')
    shutil.copy(file, tmp_path / 'ann.json')
    config = tmp_path / 'lazy.py'
    config.write_text(LAZY.replace('ROOT', repr(str(tmp_path))))
    return config


def test_data_of_a_config_of_classes_is_checked(lazy_config):
    file = lazy_config.parent / 'ann.json'
    images = json.loads(file.read_text())
    images['images'][0]['file_name'] = 'gone.jpg'
    file.write_text(json.dumps(images))
    message = error_of('train', lazy_config)
    assert 'gone.jpg' in message and 'train_dataloader' in message
    file.unlink()
    assert 'ann.json' in error_of('train', lazy_config)


def test_amp_of_a_config_of_classes(lazy_config, monkeypatch):
    monkeypatch.setattr(training, 'get_device', lambda: 'cuda')
    cfg = load_config(str(lazy_config))
    assert register_toolbox(cfg) == 'mmdet'
    training.enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert isinstance(wrapper, AmpOptimWrapper)


def test_config_of_classes_tests_as_others_do(lazy_config, tmp_path):
    cfg = load_config(str(lazy_config))
    scope = register_toolbox(cfg)
    enable_tta(cfg, scope)
    assert TRANSFORMS.build(cfg.tta_pipeline[-1])
    dump_predictions(cfg, scope, str(tmp_path / 'out.pkl'))
    assert [type(METRICS.build(m)) for m in cfg.test_evaluator][-1:] == [
        DumpDetResults
    ]


def test_auto_scale_lr_without_base(tmp_path):
    (tmp_path / 'config.py').write_text("model = dict(type='FasterRCNN')")
    message = error_of('train', tmp_path / 'config.py', '--auto-scale-lr')
    assert 'base_batch_size' in message


def test_switches_of_testing_that_the_config_does_not_fit(trained, tmp_path):
    checkpoint = trained(DET) / DET.last
    args = ('test', DET.config, checkpoint)
    assert '.pkl' in error_of(*args, '--out', tmp_path / 'out.json')
    no_hook = ('--cfg-options', 'default_hooks.visualization=None')
    message = error_of(*args, '--show-dir', tmp_path, *no_hook)
    assert 'visualization' in message
