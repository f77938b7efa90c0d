# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is told before training."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from sn_mm import SN
from sn_mm.anatomy.untrained import untrained_for_good
from sn_mm.hooks.start_watch import StartWatch


def runner(model, hooks=(), groups=None):
    if groups is None:
        groups = [dict(params=list(model.parameters()))]
    wrapper = OptimWrapper(torch.optim.SGD(groups, 0.1))
    return types.SimpleNamespace(
        model=model, hooks=list(hooks), optim_wrapper=wrapper
    )


def test_frozen_layers_with_equal_ratios_are_named():
    model = nn.Sequential(SN(8), SN(8), SN(8), SN(8, hard_ratios=True))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    for weight in (model[2].mean_weight, model[2].var_weight):
        weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert untrained_for_good(model) == ['0', '3']
    with pytest.warns(UserWarning, match='2 SN layers .* 0, 3'):
        StartWatch().before_train(runner(model))


def test_layers_that_no_optimizer_moves_are_named():
    model = nn.Sequential(SN(8), SN(8), SN(8))
    groups = [
        dict(params=list(model[0].parameters())),
        dict(params=list(model[1].parameters()), lr=0.0),
    ]
    with pytest.warns(UserWarning, match='2 SN layers .* 1, 2[.]'):
        StartWatch().before_train(runner(model, groups=groups))
    # a warmup from 0
    for group in groups:
        group.update(lr=0.0, initial_lr=0.1)
    with pytest.warns(UserWarning, match='1 SN layers .* 2[.]'):
        StartWatch().before_train(runner(model, groups=groups))


class MeanTeacherHook:
    skip_buffers = True


def test_teachers_without_buffers():
    with pytest.warns(UserWarning, match='skip_buffer=False'):
        StartWatch().before_train(
            runner(nn.Sequential(SN(8)), [MeanTeacherHook()])
        )


class Block(nn.Sequential):
    def switch_to_deploy(self):
        raise NotImplementedError


def test_blocks_that_read_batch_norms_are_told_of_once():
    model = nn.Sequential(Block(nn.Conv2d(3, 8, 3), SN(8)))
    with pytest.warns(UserWarning, match="switch_to_deploy of 1 .*'0'"):
        StartWatch().before_train(runner(model))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        StartWatch().before_train(runner(model))


def test_nothing_to_say(recwarn):
    StartWatch().before_train(runner(nn.Sequential(SN(8))))
    assert not recwarn.list
