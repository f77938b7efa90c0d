# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is told before training."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from torch import nn

from sn_mm import SN
from sn_mm.anatomy.untrained import untrained_for_good
from sn_mm.hooks.start_watch import StartWatch


def runner(model, hooks=()):
    return types.SimpleNamespace(model=model, hooks=list(hooks))


def test_frozen_layers_with_equal_ratios_are_named():
    model = nn.Sequential(SN(8), SN(8), SN(8), SN(8, hard_ratios=True))
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    for weight in (model[2].mean_weight, model[2].var_weight):
        weight.copy_(torch.tensor([0.0, 1.0, 2.0]))
    assert untrained_for_good(model) == ['0', '3']
    with pytest.warns(UserWarning, match='2 SN layers .* 0, 3'):
        StartWatch().before_train(runner(model))


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
