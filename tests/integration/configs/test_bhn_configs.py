# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""configs/bhn: BHN where they say, sharing LSTMs, and a step of training."""

import importlib.util
import math

import pytest
import torch
from mmengine.registry import MODELS

from sn_mm import cli
from sn_mm.layers import BHN
from tests.paths import CONFIGS

from . import shrunk
from .test_steps import METRICS, Watched, runner_of

PATHS = sorted((CONFIGS / 'bhn').glob('*.py'))
COCO_AND_OTHERS = [path for path in PATHS if 'in1k' not in path.stem]
# LSTMs in neck and heads
SHARED = {
    'faster-rcnn_r50_fpn_bhn_1x_coco': [],
    'faster-rcnn_r50_fpn_bhn-all_1x_coco': [
        'neck.lateral_convs.0.bn',
        'neck.fpn_convs.0.bn',
        'roi_head.bbox_head.shared_convs.0.bn',
    ],
    'mask-rcnn_r50_fpn_bhn-all_1x_coco': [
        'neck.lateral_convs.0.bn',
        'neck.fpn_convs.0.bn',
        'roi_head.bbox_head.shared_convs.0.bn',
        'roi_head.mask_head.convs.0.bn',
    ],
    'pspnet_r50-d8_syncbhn_4xb2-80k_cityscapes-769x769': [],
    'faster-rcnn_r18_fpn_bhn_demo': [],
    'faster-rcnn_r18_fpn_bhn-all_demo': [
        'neck.lateral_convs.0.bn',
        'neck.fpn_convs.0.bn',
        'roi_head.bbox_head.shared_convs.0.bn',
    ],
}
BACKBONE = [f'backbone.layer{i}.0.bn2' for i in range(1, 5)]


def test_there_are_some():
    assert {path.stem for path in COCO_AND_OTHERS} == set(SHARED)


@pytest.mark.parametrize('path', COCO_AND_OTHERS, ids=lambda path: path.stem)
def test_trains_and_evaluates(
    path, data_folder, tiny_demo_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(data_folder)
    monkeypatch.setenv('SN_MM_DEMO_DATA', str(tiny_demo_data))
    cfg = shrunk.shrink(shrunk.load(path), tmp_path)
    runner = runner_of(cfg)
    norms = {
        n: m for n, m in runner.model.named_modules() if isinstance(m, BHN)
    }
    leads = [n for n, m in norms.items() if m.lead() is m]
    assert leads == [*BACKBONE, *SHARED[path.stem]]
    assert {m.is_synchronized for m in norms.values()} == {
        'syncbhn' in path.stem
    }
    watched = Watched(runner.model)
    runner.train()
    runner.model.train()  # as it was before it was evaluated
    for name, norm in norms.items():
        before = watched.before[f'{name}.running_mean']
        takes_batch = norm.training and norm.takes_batch
        assert torch.equal(norm.running_mean, before) is not takes_batch
    for name in leads:
        lstm = norms[name].weight_ih_1
        assert lstm.isfinite().all()
        if torch.equal(lstm, watched.before[f'{name}.weight_ih_1']):
            # frozen, or in front of a gamma that starts at 0
            assert not lstm.requires_grad or 'backbone' in name
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    assert f'val/{METRICS[cfg.default_scope]}' in scalars


@pytest.mark.skipif(
    not importlib.util.find_spec('mmpretrain'), reason='needs mmpretrain'
)
def test_pretraining_leaves_what_the_others_start_from(tmp_path):
    (path,) = set(PATHS) - set(COCO_AND_OTHERS)
    cfg = shrunk.load(path)
    scope = cli.register_toolbox(cfg)
    with MODELS.switch_scope_and_registry(scope) as models:
        model = models.build(cfg.model)
    file = tmp_path / f'{path.stem}.pth'
    torch.save(dict(state_dict=model.state_dict()), file)
    for path in COCO_AND_OTHERS:
        cfg = shrunk.load(path)
        if 'r50' not in path.stem:
            continue
        init = cfg.model.backbone.init_cfg
        assert init.checkpoint == f'checkpoints/{file.name}'
        scope = cli.register_toolbox(cfg)
        with MODELS.switch_scope_and_registry(scope) as models:
            backbone = models.build(
                dict(
                    cfg.model.backbone,
                    init_cfg=dict(init, checkpoint=str(file)),
                )
            )
        backbone.init_weights()
        for name, value in backbone.state_dict().items():
            assert torch.equal(value, model.state_dict()[f'backbone.{name}'])
