# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Hard ratios: the same numbers as an ordinary layer's, and fixed."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from sn_mm import SSN, SN1d, SN2d, SN3d, SyncSN, convert_norm
from sn_mm.layers.hard import RATIO_PARAMETERS, hard_logits
from tests.norm_tester import OLD_EXPORT
from tests.utils import randomize, relative_error, run

NAMES = ('in', 'ln', 'bn', 'gn')
CHOICES = list(itertools.product(NAMES, NAMES))


def layer(mean: str, var: str, cls=SN2d, **kwargs) -> nn.Module:
    """A soft layer whose largest ratios are those of ``mean`` and ``var``."""
    made = randomize(cls(8, statistics=NAMES, num_groups=4, **kwargs))
    with torch.no_grad():
        for name, choice in zip(RATIO_PARAMETERS, (mean, var)):
            getattr(made, name)[..., NAMES.index(choice)] = 5
    return made


def ordinary(hard: nn.Module) -> nn.Module:
    """A layer that learns ratios, from the state of a hard one."""
    made = type(hard)(
        8,
        statistics=hard.statistics,
        num_groups=hard.num_groups,
        unbiased=hard.unbiased,
        ratio_groups=hard.ratio_groups,
    )
    made.load_state_dict(hard.state_dict())
    return made.train(hard.training)


def hardened(made: nn.Module) -> nn.Module:
    made.harden_()
    return made


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('mean, var', CHOICES)
def test_equal_to_an_ordinary_layer(mean, var, training):
    hard = hardened(layer(mean, var)).train(training)
    soft = ordinary(hard)
    x, dy = torch.randn(2, 2, 8, 6, 5)
    got, want = run(hard, x, dy), run(soft, x, dy)
    for name in got:
        assert relative_error(got[name], want[name]) < 1e-5, name
    # all that an optimizer of the ordinary layer gets for the ratios
    assert not want['mean_weight'].any() and not want['var_weight'].any()
    if 'bn' in (mean, var):
        for name in ('running_mean', 'running_var'):
            torch.testing.assert_close(
                getattr(hard, name), getattr(soft, name)
            )


@pytest.mark.parametrize(
    'cls, shape',
    [(SN1d, (2, 8)), (SN1d, (2, 8, 7)), (SN3d, (2, 8, 2, 3, 4))],
)
@pytest.mark.parametrize('unbiased', [True, False])
def test_other_ranks(cls, shape, unbiased):
    hard = hardened(layer('in', 'bn', cls, unbiased=unbiased))
    x = torch.randn(shape)
    for training in (True, False):
        got, want = hard.train(training)(x), ordinary(hard)(x)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings('ignore:SN on a map of a single position')
@pytest.mark.parametrize('mean, var', [('in', 'in'), ('in', 'bn')])
@pytest.mark.parametrize('cls', [SN2d, SyncSN, SSN])
def test_single_positions_and_empty_batches(cls, mean, var):
    hard = hardened(layer(mean, var, cls))
    for training in (True, False):
        soft = ordinary(hard.train(training))
        for images in (2, 0):
            x = torch.randn(images, 8, 1, 1)
            torch.testing.assert_close(hard(x), soft(x))


def test_groups_choose_for_themselves():
    made = randomize(SN2d(8, ratio_groups=2))
    with torch.no_grad():
        made.mean_weight.copy_(torch.eye(3)[:2])
        made.var_weight.copy_(torch.eye(3)[1:])
    made.harden_()
    assert made.choices() == dict(mean=('in', 'ln'), var=('ln', 'bn'))
    soft = ordinary(made)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(made(x), soft(x))


@pytest.mark.parametrize('cls', [SN2d, SyncSN, SSN])
def test_nothing_moves_the_ratios(cls):
    _, made = build_norm_layer(
        dict(type=cls.__name__.replace('2d', ''), hard_ratios=True), 8
    )
    made.load_state_dict(_three(cls))
    before = made.ratios()
    optimizer = torch.optim.AdamW(made.parameters(), 0.5, weight_decay=0.5)
    for _ in range(3):
        made(torch.randn(2, 8, 4, 4)).square().sum().backward()
        optimizer.step()
    assert dict(made.named_parameters()).keys() == {'weight', 'bias'}
    after = made.ratios()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert made.choices() == dict(mean=('bn',), var=('in',))


def _three(cls) -> dict:
    made = cls(8)
    with torch.no_grad():
        made.mean_weight.copy_(torch.tensor([0.1, 0.2, 0.3]))
        made.var_weight.copy_(torch.tensor([0.3, 0.2, 0.1]))
    return made.state_dict()


def test_soft_weights_become_hard_when_loaded():
    hard = SN2d(8, hard_ratios=True)
    assert hard.choices() is None
    hard.load_state_dict(_three(SN2d))
    assert hard.choices() == dict(mean=('bn',), var=('in',))
    assert hard.ratios()['mean'].tolist() == [0, 0, 1]
    again = SN2d(8, hard_ratios=True)
    again.load_state_dict(hard.state_dict())
    assert again.choices() == hard.choices()


def test_without_weights_the_user_is_warned():
    hard = SN2d(8, hard_ratios=True)
    x = torch.randn(2, 8, 4, 4)
    with pytest.warns(UserWarning, match='no ratios have been loaded.*harden'):
        y = hard(x)
    torch.testing.assert_close(y, SN2d(8)(x))


def test_ordinary_layers_make_no_choice():
    assert SN2d(8).choices() is None
    assert 'hard_ratios' not in repr(SN2d(8))
    assert 'hard_ratios=True' in repr(hardened(SN2d(8)))


def test_copies_and_new_starts():
    hard = hardened(layer('ln', 'gn'))
    assert copy.deepcopy(hard).choices() == hard.choices()
    hard.reset_parameters()
    assert hard.choices() is None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_logits_are_exact_in_half_precision(dtype):
    logits = hard_logits(torch.tensor([1.0, 3.0, 3.0])).to(dtype)
    # torch 2.1's CPU has no softmax of float16
    assert logits.float().softmax(-1).tolist() == [0, 1, 0]


def test_running_statistics_alone_need_no_moments(monkeypatch):
    hard = hardened(layer('bn', 'bn')).eval()
    x = torch.randn(2, 8, 4, 4)
    want = ordinary(hard)(x)
    monkeypatch.setattr('sn_mm.layers.switchable.normalize_rows', None)
    torch.testing.assert_close(hard(x), want)


@pytest.mark.skipif(OLD_EXPORT, reason='torch.export needs torch 2.4')
@pytest.mark.parametrize('groups', [1, 2])
def test_running_statistics_alone_can_be_recorded(groups):
    hard = hardened(layer('bn', 'bn', ratio_groups=groups)).eval()
    x = torch.randn(2, 8, 4, 4)
    recorded = torch.export.export(hard, (x,)).module()
    compiled = torch.compile(hard, fullgraph=True, backend='eager')
    for made in (recorded, compiled):
        torch.testing.assert_close(made(x), hard(x))


@pytest.mark.parametrize('target', ['SyncSN', 'SSN', 'SN'])
def test_conversion_keeps_the_choice(target):
    model = nn.Sequential(hardened(layer('ln', 'gn')))
    convert_norm(model, target)
    assert model[0].choices() == dict(mean=('ln',), var=('gn',))
    assert not {'mean_weight', 'var_weight'} & set(model[0]._parameters)


def test_conversion_to_hard_ratios_and_back():
    model = nn.Sequential(layer('bn', 'in'))
    convert_norm(model, dict(type='SN', hard_ratios=True))
    assert model[0].choices() == dict(mean=('bn',), var=('in',))
    convert_norm(model, dict(type='SN', hard_ratios=False))
    assert set(RATIO_PARAMETERS) <= set(model[0]._parameters)
    assert model[0].choices() == dict(mean=('bn',), var=('in',))
    new = nn.Sequential(nn.BatchNorm2d(8))
    convert_norm(new, dict(type='SN', hard_ratios=True))
    assert new[0].choices() is None
