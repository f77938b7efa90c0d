# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""configs/released are for evaluation first; they train as well."""

import math

import pytest

from . import shrunk
from .test_steps import METRICS, Watched, runner_of

NAMES = (
    'faster-rcnn_r50_fpn_sn_2x_coco',
    'faster-rcnn_r50_c4_sn_2x_coco',
    'mask-rcnn_r50_fpn_sn-nobn_scratch_coco',
    'faster-rcnn_r50_fpn_sn_res2-batch-stats_2x_coco',
    'fcn-c1-deepsup_r50-d8_sn_100k_ade20k',
)


@pytest.mark.parametrize('name', NAMES)
def test_trains_and_evaluates(name, data_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(data_folder)
    path = shrunk.CONFIGS / 'released' / f'{name}.py'
    cfg = shrunk.shrink(shrunk.load(path), tmp_path)
    runner = runner_of(cfg)
    watched = Watched(runner.model)
    runner.train()
    # the batch-stats variant moves running statistics of frozen layers
    if 'batch-stats' not in name:
        watched.check()
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    assert f'val/{METRICS[cfg.default_scope]}' in scalars
