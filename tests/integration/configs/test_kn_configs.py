# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""configs/kn: KN where they say, relayed, and a step of training."""

import math
import warnings

import pytest
import torch

from sn_mm.anatomy.norms import find_norms
from sn_mm.layers import KN
from tests.paths import CONFIGS

from . import shrunk
from .test_steps import METRICS, Watched, runner_of

PATHS = sorted((CONFIGS / 'kn').glob('*.py'))


def test_there_are_some():
    assert len(PATHS) == 4


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_trains_and_evaluates(
    path, data_folder, tiny_demo_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(data_folder)
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
    cfg = shrunk.shrink(shrunk.load(path), tmp_path)
    runner = runner_of(cfg)
    norms = find_norms(runner.model)
    inside = {n: m for n, m in norms.items() if n.startswith('backbone.')}
    assert inside and all(isinstance(m, KN) for m in inside.values())
    assert sum(m.is_relayed for m in inside.values()) == len(inside) - 1
    watched = Watched(runner.model)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'KN without')
        runner.train()
    watched.check()
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    assert f'val/{METRICS[cfg.default_scope]}' in scalars


def test_batch_norms_weights_start_it():
    """torchvision's names, which the configs' backbones keep."""
    from mmdet.models.backbones import ResNet
    from mmdet.registry import MODELS

    cfg = shrunk.load(CONFIGS / 'kn/faster-rcnn_r50_fpn_kn_1x_coco.py')
    backbone = dict(cfg.model.backbone, init_cfg=None)
    model = MODELS.build(backbone)
    other = ResNet(50, norm_cfg=dict(type='BN'))
    model.load_state_dict(other.state_dict(), strict=True)
    model.eval(), other.eval()
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(model(x), other(x)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
