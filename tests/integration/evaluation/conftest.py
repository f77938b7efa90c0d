# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs of this repository, evaluating models that predict what is known."""

import uuid

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from sn_mm.cli import enable_tta, register_toolbox
from tests.paths import CONFIGS


def config_of(pattern):
    """The first config of a name."""
    return sorted(CONFIGS.glob(pattern))[0]


def load(folder, pattern, fragment=None, lines=''):
    """A config, beside a fragment as documented: a file of a user's own."""
    bases = [str(config_of(pattern))]
    if fragment:
        bases.append(str(CONFIGS / '_base_/evaluation' / f'{fragment}.py'))
    path = folder / 'own.py'
    path.write_text(f'_base_ = {bases!r}\n{lines}')
    return Config.fromfile(path)


def evaluate(folder, cfg, model, tta=False):
    """Runner.test() of another model; gives scores and the model."""
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir = str(folder / 'work')
    cfg.experiment_name = uuid.uuid4().hex
    cfg.model = model
    # what mmengine gives to models inside of an augmented one
    cfg.data_preprocessor = model['data_preprocessor']
    cfg.load_from = None
    cfg.launcher = 'none'
    scope = register_toolbox(cfg)
    if tta:
        enable_tta(cfg, scope)
    with DefaultScope.overwrite_default_scope(scope):
        runner = Runner.from_cfg(cfg)
        scores = runner.test()
    return scores, runner.model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, for data/ and work_dirs/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
