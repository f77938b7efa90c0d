# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs by path, and the toolboxes' own by name."""

import pytest
from mmengine.config import Config

from sn_mm.cli import LaunchError, load_config


@pytest.mark.parametrize(
    'name, part',
    [
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'bbox_head'),
        (
            'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
            'decode_head',
        ),
    ],
)
def test_toolbox_configs_by_name(name, part):
    cfg = load_config(name, {'train_dataloader.batch_size': 3})
    assert cfg.default_scope == name.split('::')[0]
    assert part in cfg.model
    assert cfg.train_dataloader.batch_size == 3
    stem = name.split('/')[-1][: -len('.py')]
    assert cfg.work_dir == f'./work_dirs/{stem}'


def test_a_path_is_the_same_as_mmengine_reads(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('a = dict(b=1)\n')
    assert load_config(str(file)).a == Config.fromfile(file).a


@pytest.mark.parametrize(
    'name, problem',
    [
        ('nothing.py', 'nothing.py not found'),
        ('mmdet::nothing.py', 'nothing.py not found'),
        ('mmnothing::nothing.py', "'mmnothing' .* is not installed"),
        ('mmdet::a::b.py', "'mmdet::a' .* is not installed"),
        ('::b.py', 'not found'),
    ],
)
def test_missing_ones_are_named(name, problem):
    with pytest.raises(LaunchError, match=problem):
        load_config(name)
