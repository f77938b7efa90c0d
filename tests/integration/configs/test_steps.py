# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A training step and an evaluation step of every config, by its Runner.

Data lie where the configs look for them, as their data sets lay them out.
Configs that differ in nothing but the checkpoint that they start from, or the
depth of the backbone, have one step in common; test_placement builds R101.
"""

import math
import time

import pytest
from mmengine.runner import Runner

from . import shrunk
from .test_placement import ANY_NORM

DISTINCT = shrunk.distinct(shrunk.paths())
METRICS = dict(mmdet='coco/bbox_mAP', mmseg='mIoU')


@pytest.mark.parametrize('path', DISTINCT, ids=lambda path: path.stem)
def test_trains_and_evaluates(path, data_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(data_folder)
    cfg = shrunk.shrink(shrunk.load(path), tmp_path)
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if base:
        cfg.auto_scale_lr.enable = True
    runner = runner_of(cfg)
    watched = Watched(runner.model)
    runner.train()
    watched.check()
    # one process and two images: the paper's rate is for more of both
    lr = cfg.optim_wrapper.optimizer.lr * (2 / base if base else 1)
    groups = runner.optim_wrapper.optimizer.param_groups
    assert min(g['initial_lr'] for g in groups) == pytest.approx(lr)
    scalars = runner.message_hub.log_scalars
    assert math.isfinite(scalars['train/loss'].current())
    score = scalars[f'val/{METRICS[cfg.default_scope]}'].current()
    # COCO's -1: no object of that kind in the picture
    assert score == -1 or 0 <= score <= 100
    if 'mask' in path.name:
        assert 'val/coco/segm_mAP' in scalars


def test_no_config_is_left_out():
    tried = {shrunk.kind_of(path, depth=50) for path in DISTINCT}
    for path in shrunk.paths():
        assert shrunk.kind_of(path, depth=50) in tried, path
    assert not [path for path in DISTINCT if '_r101' in path.name]


def runner_of(cfg):
    """The config's Runner, quiet, under a name that no other run has."""
    cfg.log_level = 'ERROR'
    cfg.experiment_name = f'step_{time.monotonic_ns()}'
    return Runner.from_cfg(cfg)


class Watched:
    """What one step changes in a model, and what it leaves alone."""

    def __init__(self, model):
        self.model = model
        self.before = None
        model.register_forward_pre_hook(self._copy, with_kwargs=False)

    def _copy(self, model, inputs):
        # after the weights have been initialised, before they are trained
        if self.before is None and model.training:
            self.before = {
                name: value.detach().clone()
                for name, value in model.state_dict().items()
            }

    def check(self):
        after = self.model.state_dict()
        moved = {
            name
            for name, value in self.before.items()
            if not value.equal(after[name])
        }
        frozen = {
            name
            for name, p in self.model.named_parameters()
            if not p.requires_grad
        }
        assert not moved & frozen
        assert all(after[name].isfinite().all() for name in moved)
        for name, module in self.model.named_modules():
            if not isinstance(module, ANY_NORM):
                continue
            learns = module.weight.requires_grad
            assert (f'{name}.weight' in moved) <= learns, name
            if f'{name}.running_mean' in after:
                assert (f'{name}.running_mean' in moved) == learns, name
