# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Hardening models and state dicts, and finetuning from the result."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from sn_mm import SN, SSN, harden
from sn_mm.anatomy.ratios import ratios_of_model, ratios_of_state
from sn_mm.surgery.harden import describe_choices, harden_state
from tests.builders import (
    SN_CFG,
    Toy,
    build,
    faster_rcnn,
    flatten,
    randomize_norms,
    resnet,
    segmentor_config,
    switch_norms,
)
from tests.utils import is_hard, relative_error

HARD_CFG = dict(SN_CFG, hard_ratios=True)


def eval_outputs(model: nn.Module, x: torch.Tensor) -> list:
    model.eval()
    if hasattr(model, 'extract_feat'):
        return list(flatten(model.extract_feat(x)))
    return list(flatten(model(x)))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'make',
    [
        lambda cfg: resnet(norm_cfg=cfg),
        lambda cfg: faster_rcnn(cfg),
        lambda cfg: build('mmseg', segmentor_config(norm_cfg=cfg).model),
    ],
    ids=['backbone', 'detector', 'segmentor'],
)
def test_weights_go_both_ways(make):
    soft = randomize_norms(make(SN_CFG))
    before = {r.name: r for r in ratios_of_model(soft)}
    state, layers = harden_state(soft.state_dict())
    assert list(state) == list(soft.state_dict())
    assert state._metadata == soft.state_dict()._metadata
    assert [r.name for r in layers] == list(before)
    harden(soft)
    for name, layer in switch_norms(soft).items():
        want = {k: before[name].choice(k) for k in ('mean', 'var')}
        assert layer.choices() == want
    x = torch.randn(2, 3, 64, 64)
    want = eval_outputs(soft, x)
    for cfg in (HARD_CFG, SN_CFG):  # finetuning's, and the ordinary one
        model = make(cfg)
        model.load_state_dict(state)
        for got, wanted in zip(eval_outputs(model, x), want):
            assert relative_error(got, wanted) < 1e-5
    # what finetuning saves is what the ordinary config tests
    ordinary = make(SN_CFG)
    ordinary.load_state_dict(soft.state_dict())


def test_finetuning_leaves_the_ratios_alone():
    model = Toy(SN(4, hard_ratios=True))
    model.norm.load_state_dict(SN(4).state_dict())
    before = copy.deepcopy(model.norm.ratios())
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.5),
        ),
    )
    for _ in range(3):
        images = list(torch.randn(2, 3, 8, 8))
        loss = model(images, [0, 1], mode='loss')['loss']
        wrapper.update_params(loss)
    after = model.norm.ratios()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert (model.norm.weight != 1).all()


def test_chosen_layers_only():
    model = resnet()
    names = list(switch_norms(model))
    harden(model, include=names[:3], exclude=names[1])
    hard = [n for n, m in switch_norms(model).items() if m.hard_ratios]
    assert hard == [names[0], names[2]]


def test_sparse_layers():
    model = nn.Sequential(SSN(8), SSN(8, ratio_groups=2))
    for parameter in model.parameters():
        nn.init.uniform_(parameter)
    state, _ = harden_state(model.state_dict())
    harden(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all((layer.mean_fixed == 1).all() for layer in model)
    assert [is_hard(r) for r in ratios_of_state(state)] == [True, True]


def test_plain_dicts_and_prefixes():
    layer = SN(8)
    with torch.no_grad():
        layer.var_weight[2] += 1
    state = OrderedDict(
        (f'module.x.{k}', v) for k, v in layer.state_dict().items()
    )
    before = copy.deepcopy(state)
    new, (found,) = harden_state(state)
    assert found.name == 'module.x' and found.choice('var') == ('bn',)
    assert all(torch.equal(state[k], before[k]) for k in state)
    assert new['module.x.var_weight'].softmax(-1).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    'break_it, words',
    [
        (lambda s: s.pop('0.mean_weight'), '0.var_weight has no mean_weight'),
        (lambda s: s.pop('0.var_weight'), 'must match'),
        (
            lambda s: s.update({'0.var_weight': torch.ones(2)}),
            r'shape \(3,\), but var_weight of shape \(2,\)',
        ),
        (
            lambda s: s.update({'0.var_weight': torch.full((3,), torch.nan)}),
            'ratios of 0 are not finite.*earlier checkpoint',
        ),
        (lambda s: s.clear(), 'no SN layer.*convert_checkpoint'),
    ],
)
def test_broken_checkpoints(break_it, words):
    state = nn.Sequential(SN(8)).state_dict()
    break_it(state)
    with pytest.raises(ValueError, match=words):
        harden_state(state)


def test_models_that_cannot_be_hardened():
    with pytest.raises(ValueError, match=r'no SN layer to harden; build it'):
        harden(nn.Conv2d(3, 3, 1))
    model = nn.Sequential(SN(8), SN(8))
    with torch.no_grad():
        model[1].mean_weight.fill_(float('nan'))
    with pytest.raises(ValueError, match='ratios of 1 are not finite'):
        harden(model)
    assert not model[0].hard_ratios


# -- how sure a choice is -------------------------------------------------
def layer_of(*logits):
    layer = SN(8)
    with torch.no_grad():
        for weight in (layer.mean_weight, layer.var_weight):
            weight.copy_(torch.tensor(logits))
    return layer


def test_choices_by_next_to_nothing_are_warned_of():
    sure, unsure = layer_of(3.0, 1.0, 1.0), layer_of(1.0, 1.03, 1.0)
    with pytest.warns(UserWarning, match='finetune it before') as caught:
        harden(nn.Sequential(sure, unsure, SN(8)))
    (text,) = (str(w.message) for w in caught)
    assert '2 of 3 layers have not decided' in text and '(1, 2)' in text
    assert 'in 1 it leads by nothing' in text


def test_clear_choices_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        harden(
            nn.Sequential(layer_of(3.0, 1.0, 1.0), SN(8, statistics=['bn']))
        )


def test_margins_are_said():
    model = nn.Sequential(layer_of(3.0, 1.0, 1.0), layer_of(1.0, 1.03, 1.0))
    text = describe_choices(ratios_of_model(model))
    assert 'leads by 0.01 to 0.68' in text
