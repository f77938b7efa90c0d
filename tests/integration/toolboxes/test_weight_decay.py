# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The optimizer constructor and the toolboxes see SN as a norm."""

import pytest
from mmcv.cnn import ConvModule
from mmengine.optim import build_optim_wrapper

from tests.builders import (
    BN_CFG,
    SN_CFG,
    build,
    faster_rcnn,
    resnet,
    segmentor_config,
    switch_norms,
)

RATIOS = ('mean_weight', 'var_weight')
LR, DECAY = 0.1, 1e-4


def groups(model, constructor='DefaultOptimWrapperConstructor', **paramwise):
    """(lr, weight decay) of every parameter, by name."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=LR, weight_decay=DECAY),
            constructor=constructor,
            paramwise_cfg=paramwise,
        ),
    )
    options = {
        id(p): (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    return {n: options[id(p)] for n, p in model.named_parameters()}


@pytest.fixture(scope='module', params=['mmdet', 'mmseg'])
def model(request):
    if request.param == 'mmdet':
        return faster_rcnn(frozen_stages=-1)
    return build('mmseg', segmentor_config().model)


def test_norm_decay_mult_reaches_all_of_sn_and_nothing_else(model):
    options = groups(
        model, norm_decay_mult=0.0, bias_lr_mult=2.0, bias_decay_mult=0.5
    )
    norms = {
        f'{layer}.{name}'
        for layer, m in switch_norms(model).items()
        for name, _ in m.named_parameters()
    }
    assert len(norms) == 4 * len(switch_norms(model))
    kinds = set()
    for name, got in options.items():
        if name in norms:
            want = (LR, 0.0)
        elif name.endswith('.bias'):
            want = (2 * LR, DECAY / 2)
        else:
            want = (LR, DECAY)
        kinds.add(want)
        assert got == want, name
    assert len(kinds) == 3


@pytest.mark.parametrize(
    'paramwise',
    [
        dict(norm_decay_mult=0.0),
        dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
        dict(bias_lr_mult=2.0, bias_decay_mult=0.0, norm_decay_mult=0.5),
        dict(flat_decay_mult=0.25),
        dict(custom_keys={'layer3': dict(lr_mult=0.1, decay_mult=3.0)}),
    ],
)
def test_every_rule_treats_sn_as_it_treats_bn(paramwise):
    sn = groups(resnet(norm_cfg=SN_CFG), **paramwise)
    bn = groups(resnet(norm_cfg=BN_CFG), **paramwise)
    for name, want in bn.items():
        assert sn[name.replace('bn', 'sn')] == want, name
    # ratios are no biases: they share their gamma's fate
    ratios = [n for n in sn if n.endswith(RATIOS)]
    assert len(ratios) == len(sn) - len(bn)
    for name in ratios:
        assert sn[name] == sn[name.rsplit('.', 1)[0] + '.weight'], name


def test_layers_carry_sn_in_their_names():
    names = set(switch_norms(resnet()))
    assert {
        'sn1',
        'layer1.0.sn1',
        'layer1.0.sn2',
        'layer2.0.downsample.1',
    } <= names
    assert 'layer3.0.sn3' in switch_norms(resnet(depth=50))
    module = ConvModule(3, 4, 1, norm_cfg=dict(type='SyncSN'))
    assert module.norm_name == 'sn' and module.norm is module.sn
    assert module.conv.bias is None
