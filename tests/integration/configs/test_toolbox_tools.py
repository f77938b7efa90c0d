# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One config of each family under the toolboxes' own train.py and test.py."""

import runpy
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch

from . import shrunk

TOOLS = {
    box.__name__: Path(box.__file__).parent / '.mim/tools'
    for box in (mmdet, mmseg)
}
CONFIGS = (
    'faster_rcnn/faster-rcnn_r50_c4_sn-all_4xb3-120k_coco',
    'faster_rcnn/faster-rcnn_r50_fpn_sn-all_1x_coco',
    'mask_rcnn/mask-rcnn_r50_fpn_sn-all_2x_coco',
    'deeplabv3/deeplabv3_r50-d8_sn-8x2_8xb2-100k_ade20k-450x450',
    'fcn_c1/fcn-c1_r50-d8_sn-8x2_8xb2-130k_cityscapes-713x713',
    'pspnet/pspnet_r50-d8_syncsn-8x32_8xb2-130k_cityscapes-713x713',
    'swap_in/retinanet_r50_fpn_sn-all_1x_coco',
)
# seen at several scales
MULTI_SCALE = (CONFIGS[3], CONFIGS[5])
ALWAYS = (CONFIGS[0], CONFIGS[2], CONFIGS[5])


def some_slow():
    """A detector with masks and a segmentor at several scales come always.

    The others do what these do; test_steps has a step of each.
    """
    for name in CONFIGS:
        marks = () if name in ALWAYS else pytest.mark.slow
        yield pytest.param(name, id=name[:13], marks=marks)


@pytest.mark.parametrize('name', some_slow())
def test_trains_and_tests(name, data_folder, tmp_path, monkeypatch, capsys):
    path = shrunk.CONFIGS / f'{name}.py'
    arguments = [str(path), '--work-dir', str(tmp_path)]
    options = options_for(path, tmp_path)
    monkeypatch.chdir(data_folder)
    scope = shrunk.load(path).default_scope

    run = ['--cfg-options', *options, f'experiment_name={tmp_path.name}']
    call(TOOLS[scope] / 'train.py', [*arguments, *run], monkeypatch)
    checkpoint = tmp_path / 'iter_1.pth'
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    assert any(key.endswith('.mean_weight') for key in state)

    capsys.readouterr()
    arguments.insert(1, str(checkpoint))
    run[-1] += '_test'
    extra = ['--tta'] if name in MULTI_SCALE else []
    call(TOOLS[scope] / 'test.py', [*arguments, *extra, *run], monkeypatch)
    printed = ''.join(capsys.readouterr())
    expected = 'coco/bbox_mAP:' if scope == 'mmdet' else 'mIoU:'
    assert expected in printed


def options_for(path, work_dir):
    """Settings that make a run of one step, which leaves a checkpoint."""
    left_out = ['visualizer.', 'default_hooks.checkpoint.', 'work_dir']
    added = [
        'default_hooks.checkpoint.by_epoch=False',
        'default_hooks.checkpoint.interval=1',
    ]
    if 'max_epochs' in shrunk.load(path).train_cfg:
        left_out += ['train_cfg.', 'train_dataloader.sampler.']
        added += ['train_cfg.max_epochs=1']
    changed = shrunk.options(path, work_dir)
    return added + [o for o in changed if not o.startswith(tuple(left_out))]


def call(tool, arguments, monkeypatch):
    """Run a script, as the command line does, in this process."""
    monkeypatch.setattr(sys, 'argv', [str(tool), *arguments])
    runpy.run_path(str(tool), run_name='__main__')
