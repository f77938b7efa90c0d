# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""ratio_lr_mult in every optimizer that the toolboxes build."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from sn_mm import SN
from sn_mm.patches.ratio_rate import scale_ratio_rates
from tests.builders import SN_CFG, resnet, toy_runner

SGD = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
ADAMW = dict(type='AdamW', lr=1e-4, weight_decay=0.05)


class ConvNeXtLike(nn.Module):
    """Called as the layer-wise constructors expect it, with SN in the head."""

    def __init__(self):
        super().__init__()
        self.backbone = resnet(norm_cfg=SN_CFG)
        self.backbone.__class__ = type('ConvNeXt', (type(self.backbone),), {})
        self.head = nn.Sequential(nn.Conv2d(3, 4, 1), SN(4))


def names_of(model):
    return list(model.named_parameters())


def settings(model, **paramwise):
    """(lr, weight decay) of every parameter, by name."""
    cfg = dict(
        type='OptimWrapper',
        optimizer=paramwise.pop('optimizer', SGD),
        paramwise_cfg=paramwise.pop('cfg', paramwise),
        **({'constructor': paramwise.pop('by')} if 'by' in paramwise else {}),
    )
    optimizer = build_optim_wrapper(model, cfg).optimizer
    names = {p: n for n, p in model.named_parameters()}
    found = {
        names[p]: (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert len(found) == sum(len(g['params']) for g in optimizer.param_groups)
    assert all(n in found for n, p in names_of(model) if p.requires_grad)
    return found


def compare(with_rate, without, factor=20):
    assert with_rate.keys() == without.keys()
    for name, (lr, decay) in with_rate.items():
        ratio = name.endswith(('mean_weight', 'var_weight'))
        want = without[name][0] * (factor if ratio else 1)
        assert lr == pytest.approx(want), name
        assert decay == without[name][1], name


@pytest.mark.parametrize('optimizer', [SGD, ADAMW])
@pytest.mark.parametrize(
    'paramwise',
    [
        {},
        dict(norm_decay_mult=0.0),
        dict(bias_lr_mult=2.0, norm_decay_mult=0.0),
        dict(
            norm_decay_mult=0.0,
            custom_keys={
                'backbone': dict(lr_mult=0.1),
                'backbone.layer1': dict(lr_mult=0.01, decay_mult=0.0),
            },
        ),
    ],
)
def test_on_top_of_all_else(optimizer, paramwise):
    model = nn.ModuleDict(dict(backbone=resnet(norm_cfg=SN_CFG), norm=SN(4)))
    compare(
        settings(model, optimizer=optimizer, ratio_lr_mult=20, **paramwise),
        settings(model, optimizer=optimizer, **paramwise),
    )


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('kind', ['layer_wise', 'stage_wise'])
def test_layer_wise_decay(scope, kind):
    if scope == 'mmdet':
        import mmdet.engine  # noqa: F401
    else:
        import mmseg.engine  # noqa: F401
    model = ConvNeXtLike()
    paramwise = dict(decay_rate=0.5, decay_type=kind, num_layers=6)
    by = f'{scope}.LearningRateDecayOptimizerConstructor'
    compare(
        settings(
            model,
            by=by,
            cfg=dict(paramwise, ratio_lr_mult=20),
            optimizer=ADAMW,
        ),
        settings(model, by=by, cfg=paramwise, optimizer=ADAMW),
    )


def test_frozen_ratios_are_left_out():
    model = resnet(norm_cfg=SN_CFG, frozen_stages=1)
    found = settings(model, ratio_lr_mult=20, norm_decay_mult=0)
    assert 'sn1.mean_weight' not in found
    assert found['layer2.0.sn1.mean_weight'][0] == pytest.approx(0.4)


@pytest.mark.parametrize('factor', [0, -1, float('inf'), 'fast', True, None])
def test_no_factor(factor):
    with pytest.raises(ValueError, match='ratio_lr_mult'):
        settings(SN(4), ratio_lr_mult=factor)


def test_groups_of_a_loop_of_ones_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SN(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scale_ratio_rates(optimizer, model, 5)
    rest, own = optimizer.param_groups
    assert own['lr'] == 0.5 and rest['lr'] == 0.1
    assert own['momentum'] == 0.9
    assert {id(p) for p in own['params']} == {
        id(model[1].mean_weight),
        id(model[1].var_weight),
    }
    assert len(rest['params']) == 4


def test_schedules_and_resumed_runs(tmp_path):
    def runner(epochs, resume=False):
        made = toy_runner(tmp_path, epochs=epochs, resume=resume)
        made.optim_wrapper = dict(
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9),
            paramwise_cfg=dict(ratio_lr_mult=20.0),
        )
        made.param_schedulers = [
            dict(type='MultiStepLR', milestones=[1], gamma=0.1)
        ]
        made.train()
        groups = made.optim_wrapper.optimizer.param_groups
        return sorted({g['lr'] for g in groups})

    assert runner(2) == pytest.approx([0.01, 0.2])
    assert runner(3, resume=True) == pytest.approx([0.01, 0.2])
