# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Configs of the other normalizers: every norm is theirs, and they train."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sn_mm import cli
from sn_mm.layers import RowNorm
from tests.paths import CONFIGS

from . import shrunk
from .test_steps import runner_of

# folder, and the type of all norms
FOLDERS = dict(brn='BRN', dn='DN', en='EN', pn='PN')
PATHS = shrunk.paths(*FOLDERS)
MORE = shrunk.paths('more_norms')
WEIGHTS = shrunk.paths('weight_norms')
METHODS = dict(
    wn='weight_norm',
    cwn='centred_weight_norm',
    spectral='spectral_norm',
    ws='weight_standardization',
)
PARTS = ('faster-rcnn_r50', 'mask-rcnn_r50', 'pspnet', 'demo')


def test_what_each_method_has():
    for folder in FOLDERS:
        names = ' '.join(p.name for p in shrunk.paths(folder))
        assert (CONFIGS / folder / 'README.md').is_file()
        for part in PARTS:
            assert part in names, (folder, part)
    names = [p.stem for p in MORE]
    for kind in {name.split('-all')[0].rpartition('_')[2] for name in names}:
        same = [name for name in names if f'_{kind}-all' in name]
        assert [sum(part in n for n in same) for part in PARTS] == [1] * 4
    names = [p.stem for p in WEIGHTS]
    for short, method in METHODS.items():
        same = [name for name in names if f'_{short}_' in name]
        assert [sum(part in n for n in same) for part in PARTS] == [1] * 4
        for name in same:
            model = shrunk.load(CONFIGS / f'weight_norms/{name}.py').model
            assert (model.type, model.method) == ('NormalizeWeights', method)
            assert model.backbone.norm_cfg.type == 'SN'


@pytest.mark.parametrize('path', PATHS + MORE, ids=lambda path: path.stem)
def test_every_norm_is_the_methods(path):
    cfg = shrunk.without_pretrained(shrunk.load(path))
    scope = cli.register_toolbox(cfg)
    with torch.device('meta'):
        with MODELS.switch_scope_and_registry(scope) as models:
            model = models.build(cfg.model).train()
    others = (_BatchNorm, nn.GroupNorm)
    norms = [m for m in model.modules() if isinstance(m, RowNorm)]
    (kind,) = {m.norm_type for m in norms}
    assert kind == FOLDERS.get(path.parent.name, cfg.norm_cfg.type)
    assert len(norms) > 20
    assert not [m for m in model.modules() if isinstance(m, others)]
    assert cfg.optim_wrapper.paramwise_cfg.norm_decay_mult == 0
    if cfg.model.backbone.type == 'ResNet':
        assert model.backbone.norm1_name == 'bn1'  # BN's weights fit


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'path',
    [p for p in PATHS if 'demo' not in p.name and 'mask' not in p.name]
    + [p for p in MORE if 'faster-rcnn_r50' in p.name]
    + [p for p in WEIGHTS if 'faster-rcnn_r50' in p.name]
    + [p for p in WEIGHTS if 'pspnet' in p.name and '_wn_' in p.name],
    ids=lambda path: path.stem,
)
def test_trains_and_evaluates(path, data_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(data_folder)
    cfg = shrunk.shrink(shrunk.load(path), tmp_path)
    runner = runner_of(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    hooks = {type(hook).__name__ for hook in runner.hooks}
    for module in runner.model.modules():
        needed = getattr(module, 'needs_hook', None)
        assert needed is None or needed in hooks
