# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Weights of other norms: what is refused, and what is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from torch import nn

from sn_mm import convert_norm, load_pretrained
from sn_mm.checkpoints import CheckpointError
from sn_mm.checkpoints.foreign import other_norms_refused
from sn_mm.checkpoints.reader import read_checkpoint
from tests.builders import (
    BN_CFG,
    SN_CFG,
    Toy,
    loader,
    resnet,
    switch_norms,
    toy_runner,
)


def saved(path, model, **more):
    torch.save(dict(state_dict=model.state_dict(), **more), path)
    return str(path)


@pytest.fixture
def bn_file(tmp_path):
    return saved(tmp_path / 'bn.pth', resnet(norm_cfg=BN_CFG))


def plain(norm):
    """Names say nothing of the kind of the norm."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm)


def test_batch_norms_under_the_names_of_sn_are_refused(tmp_path):
    model = convert_norm(plain(nn.BatchNorm2d(8)), 'SN')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = saved(tmp_path / 'bn.pth', plain(nn.BatchNorm2d(8)))
    with pytest.raises(CheckpointError, match='bn2sn://'):
        load_checkpoint(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    with pytest.raises(CheckpointError, match='bn2sn://'):
        model.load_state_dict(torch.load(path)['state_dict'], strict=False)


@pytest.mark.parametrize('norm', [nn.BatchNorm2d(8), nn.GroupNorm(2, 8)])
def test_sn_under_the_names_of_another_norm_is_refused(tmp_path, norm):
    converted = convert_norm(plain(nn.BatchNorm2d(8)), 'SN')
    path = saved(tmp_path / 'sn.pth', converted)
    with pytest.raises(CheckpointError, match='ConvertNorm'):
        load_checkpoint(plain(norm), path)


def test_names_that_fit_half_are_told(tmp_path):
    path = saved(
        tmp_path / 'bn.pth', nn.ModuleDict(dict(bn1=nn.BatchNorm2d(8)))
    )
    model = nn.ModuleDict(dict(sn1=convert_norm(nn.BatchNorm2d(8), 'SN')))
    with pytest.warns(UserWarning, match='bn2sn://') as told:
        load_checkpoint(model, path)
    assert sum('bn2sn' in str(w.message) for w in told) == 1
    with other_norms_refused(), pytest.raises(CheckpointError, match='bn2sn'):
        load_checkpoint(model, path)


def test_init_cfg_of_batch_norm(bn_file):
    init_cfg = dict(type='Pretrained', checkpoint=bn_file)
    with pytest.raises(CheckpointError, match='bn2sn://'):
        resnet(norm_cfg=SN_CFG, init_cfg=init_cfg)


def test_bn_alone_under_frozen_stages(bn_file):
    model = resnet(
        norm_cfg=SN_CFG,
        frozen_stages=1,
        init_cfg=dict(type='Pretrained', checkpoint=f'bn2sn://{bn_file}'),
    )
    for name, layer in switch_norms(model).items():
        frozen = name.startswith(('sn1', 'layer1.'))
        ratios = layer.ratios()['mean'].tolist()
        wanted = [0, 0, 1] if frozen else [1 / 3] * 3
        assert ratios == pytest.approx(wanted, abs=1e-6), name


def test_bn2sn_of_a_run_and_of_data_parallel(tmp_path):
    state = resnet(norm_cfg=BN_CFG).state_dict()
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    path = tmp_path / 'run.pth'
    content = dict(
        meta=dict(epoch=1),
        state_dict={f'module.{k}': v for k, v in state.items()},
        message_hub=dict(loss=buffer, lr=np.float64(0.1)),
    )
    torch.save(content, path)
    model = resnet(norm_cfg=SN_CFG)
    load_pretrained(model, f'bn2sn://{path}')
    assert torch.equal(model.conv1.weight, state['conv1.weight'])
    with pytest.raises(CheckpointError, match='Python objects'):
        read_checkpoint(path)


class Runs:
    """Code that a pickle would run."""

    def __reduce__(self):
        return eval, ('1 / 0',)


@pytest.mark.parametrize('zipped', [True, False])
def test_code_beside_the_weights_is_passed_over(tmp_path, zipped):
    model = resnet(norm_cfg=BN_CFG)
    path = tmp_path / 'run.pth'
    content = dict(state_dict=model.state_dict(), hub=Runs(), x=[Runs()])
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    load_pretrained(resnet(norm_cfg=SN_CFG), f'bn2sn://{path}')
    with pytest.raises(CheckpointError, match='eval'):
        read_checkpoint(path)


def test_negative_variance_names_its_key(tmp_path):
    model = resnet(norm_cfg=BN_CFG)
    model.layer2[0].bn1.running_var[1] = -0.5
    path = saved(tmp_path / 'bn.pth', model)
    with pytest.raises(CheckpointError, match=r'layer2\.0\.bn1\.running_var'):
        load_pretrained(resnet(norm_cfg=SN_CFG), f'bn2sn://{path}')


def test_half_a_network_is_not_tested(tmp_path):
    """Whoever starts the test: the toolboxes' own scripts call the Runner."""
    bn = Toy()
    del bn.norm
    bn.bn1 = nn.BatchNorm2d(4)
    model = Toy()
    model.sn1 = convert_norm(nn.BatchNorm2d(4), 'SN')
    path = saved(tmp_path / 'bn.pth', bn)
    runner = toy_runner(
        tmp_path,
        model,
        load_from=path,
        val_dataloader=loader([dict(x=torch.ones(3, 8, 8))]),
        val_cfg=dict(),
        val_evaluator=Evaluator([]),
    )
    with pytest.raises(CheckpointError, match='bn2sn://'):
        runner.val()
    with pytest.warns(UserWarning, match='bn2sn://'):
        runner.train()
