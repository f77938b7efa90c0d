# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""configs/hard: the soft config, with hard ratios in every SN layer."""

from __future__ import annotations

import importlib.util

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from sn_mm import cli
from sn_mm.layers.switchable import SwitchNorm
from tests.paths import CONFIGS

HARD = CONFIGS / 'hard'
CONFIGS = sorted(HARD.glob('*.py'))


def test_there_are_some():
    assert len(CONFIGS) == 4


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_ratios_are_hard_and_out_of_the_optimizers_reach(path):
    if 'in1k' in path.name and not importlib.util.find_spec('mmpretrain'):
        pytest.skip('needs mmpretrain')
    cfg = Config.fromfile(path)
    assert cfg.load_from.endswith('hard.pth')
    scope = cli.register_toolbox(cfg)
    with MODELS.switch_scope_and_registry(scope) as models:
        model = models.build(cfg.model)
    layers = [m for m in model.modules() if isinstance(m, SwitchNorm)]
    assert layers and all(layer.hard_ratios for layer in layers)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optimized = {
        id(p) for g in wrapper.optimizer.param_groups for p in g['params']
    }
    for layer in layers:
        assert id(layer.mean_weight) not in optimized
        assert id(layer.var_weight) not in optimized
