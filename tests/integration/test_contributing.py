# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The worked example of CONTRIBUTING.md runs as it stands there."""

import os
import re
import subprocess
import sys

import pytest
from mmdet.models import ResNet
from mmengine.config import Config
from mmengine.registry import MODELS

from tests.paths import ROOT

BLOCK = re.compile(r'<!-- file: (\S+) -->\n```python\n(.*?)```', re.DOTALL)


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """The folder with the example's files."""
    folder = tmp_path_factory.mktemp('example')
    blocks = BLOCK.findall((ROOT / 'CONTRIBUTING.md').read_text())
    assert [name for name, _ in blocks] == [
        'half_rule.py',
        'half_layer.py',
        'test_half.py',
        'half_config.py',
    ]
    for name, text in blocks:
        (folder / name).write_text(text)
    return folder


def run(folder, *arguments):
    paths = [str(folder), str(ROOT), str(ROOT / 'tools')]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_the_example_passes_the_tester(example):
    """All but what needs a row of the table."""
    own = 'not representative and not data_parallel and not dynamo'
    out = run(
        example,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        'test_half.py',
        '-k',
        f'{own} and not onnx and not resume and not compiles',
        '-c',
        str(ROOT / 'pyproject.toml'),
        '--rootdir',
        str(example),
    )
    passed = int(re.search(r'(\d+) passed', out).group(1))
    assert passed > 60, out


def test_the_examples_config_builds_a_backbone(example, monkeypatch):
    monkeypatch.chdir(example)
    monkeypatch.syspath_prepend(str(example))
    names = ('half_rule', 'half_layer')
    try:
        cfg = Config.fromfile('half_config.py')
        norm_cfg = cfg.model.backbone.norm_cfg
        backbone = ResNet(18, norm_cfg=norm_cfg, init_cfg=None)
    finally:  # what importing them leaves
        MODELS.module_dict.pop('Half', None)
        for name in names:
            sys.modules.pop(name, None)
    kinds = {type(m).__name__ for m in backbone.modules()}
    assert 'Half' in kinds and 'BatchNorm2d' not in kinds, kinds
    assert backbone.norm1_name == 'half1'
