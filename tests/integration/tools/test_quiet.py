# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Tools print what they were asked for; other lines would bury it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from sn_mm.cli import register_toolbox
from tests.paths import CONFIGS, ROOT, TOOLS

CONFIG = CONFIGS / 'demo' / 'faster-rcnn_r18_fpn_sn-all_demo.py'


def run(name, *arguments, **env):
    """Lines of both streams; warnings as a user gets to see them."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), **env}
    env.pop('PYTHONWARNINGS', None)
    done = subprocess.run(
        [sys.executable, TOOLS / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.fixture(scope='module')
def checkpoint(tiny_demo_data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
        cfg = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
        model = MODELS.build(cfg.model)
    path = tmp_path_factory.mktemp('checkpoint') / 'model.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


def test_list_configs():
    printed, said = run('list_configs.py', 'swap_in')
    configs = list((CONFIGS / 'swap_in').glob('*.py'))
    assert len(printed) == 2 + len(configs)
    assert not said


@pytest.mark.slow
def test_batch_average(tiny_demo_data, checkpoint, tmp_path):
    data = str(tiny_demo_data)
    arguments = (CONFIG, checkpoint, tmp_path / 'out.pth')
    folder = ('--work-dir', tmp_path)
    printed, said = run(
        'batch_average.py', *arguments, *folder, SN_MM_DEMO_DATA=data
    )
    assert any('wrote' in line for line in printed)
    assert len(printed) <= 5
    assert len(said) <= 5


def test_print_norms(tiny_demo_data):
    printed, said = run('print_norms.py', CONFIG)
    layers = [line for line in printed if ' SN2d ' in line]
    assert len(layers) > 20
    # a title, a line for each component, images per GPU, warnings
    assert len(printed) - len(layers) <= 12
    assert not said
