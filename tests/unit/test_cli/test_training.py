# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switches of a training run, on configs that are made up."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from sn_mm import cli
from sn_mm.cli import training


def config(**wrapper):
    return Config(dict(optim_wrapper=dict(optimizer=dict(lr=1), **wrapper)))


def test_amp_takes_the_wrapper_that_it_needs(monkeypatch):
    monkeypatch.setattr(training, 'get_device', lambda: 'cuda')
    for wrapper in ({}, dict(type='mmengine.OptimWrapper')):
        cfg = config(**wrapper)
        cli.enable_amp(cfg)
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
        assert cfg.optim_wrapper.loss_scale == 'dynamic'
    own = config(type='AmpOptimWrapper', loss_scale=512.0)
    cli.enable_amp(own)
    assert own.optim_wrapper.loss_scale == 512.0


def test_amp_that_cannot_be(monkeypatch):
    with pytest.raises(cli.LaunchError, match='config has ApexOptimWrapper'):
        cli.enable_amp(config(type='ApexOptimWrapper'))
    monkeypatch.setattr(training, 'get_device', lambda: 'cpu')
    with pytest.raises(cli.LaunchError, match='needs a GPU'):
        cli.enable_amp(config())


def test_scaling_of_the_learning_rate():
    cfg = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=16)))
    cli.enable_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    for content in ({}, dict(auto_scale_lr=None)):
        with pytest.raises(cli.LaunchError, match='base_batch_size'):
            cli.enable_auto_scale_lr(Config(content))


def test_resuming(tmp_path):
    cfg = Config(dict(load_from='start.pth'))
    cli.set_resume(cfg, 'auto')
    assert cfg.resume and cfg.load_from is None
    file = tmp_path / 'last.pth'
    torch.save({}, file)
    cli.set_resume(cfg, str(file))
    assert cfg.load_from == str(file)
    with pytest.raises(cli.LaunchError, match='none.pth not found'):
        cli.set_resume(cfg, str(tmp_path / 'none.pth'))


def test_other_parameters_than_the_checkpoints():
    with pytest.raises(cli.LaunchError, match='load_from'):
        with cli.resuming(Config(dict(resume=True))):
            raise ValueError('different number of parameter groups')
    with pytest.raises(ValueError, match='anything else'):
        with cli.resuming(Config(dict(resume=True))):
            raise ValueError('anything else')
