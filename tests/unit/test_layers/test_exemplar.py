# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""EN: ratios of each sample, and what tools see of them."""

import pytest
import torch
from torch import nn

import sn_mm
from sn_mm import SN
from sn_mm.layers import EN, SyncEN
from tests.utils import randomize, relative_error


def test_a_new_layer_mixes_equal_shares():
    torch.manual_seed(0)
    x = torch.randn(3, 8, 5, 5)
    layer = EN(8)
    want = sum(
        norm(x) / 3
        for norm in (
            nn.InstanceNorm2d(8),
            nn.GroupNorm(1, 8),
            nn.BatchNorm2d(8),
        )
    )
    assert relative_error(layer(x), want) < 1e-5
    torch.testing.assert_close(
        layer.sample_ratios(x), torch.full((3, 3), 1 / 3)
    )


def test_ratios_differ_from_sample_to_sample():
    torch.manual_seed(0)
    layer = randomize(EN(8, momentum=None))
    seen = []
    for _ in range(3):
        x = torch.randn(4, 8, 5, 5) + torch.randn(4, 8, 1, 1)
        own = layer.sample_ratios(x)
        torch.testing.assert_close(own.sum(1), torch.ones(4))
        assert own.std(0).min() > 1e-3
        alone = torch.cat([layer.sample_ratios(part) for part in x.split(1)])
        torch.testing.assert_close(alone, own)
        layer(x)
        seen.append(own)
    torch.testing.assert_close(layer.ratios()['mean'], torch.cat(seen).mean(0))
    var = torch.stack([r.var(0, unbiased=False) for r in seen]).mean(0)
    torch.testing.assert_close(layer.ratio_var, var)


def test_one_position_has_no_instance_statistic():
    layer = randomize(EN(8))
    ratios = layer.sample_ratios(torch.randn(2, 8, 1, 1))
    assert (ratios[:, 0] == 0).all()
    torch.testing.assert_close(ratios.sum(1), torch.ones(2))


def test_an_affine_pair_for_each_normalizer_from_one():
    old = randomize(nn.BatchNorm2d(8))
    model = sn_mm.convert_norm(nn.Sequential(old), 'SyncEN')
    assert type(model[0]) is SyncEN
    assert torch.equal(model[0].weight, old.weight.expand(3, 8))
    assert torch.equal(model[0].running_var, old.running_var)
    loaded = EN(8)
    loaded.load_state_dict(old.state_dict(), strict=False)
    assert torch.equal(loaded.weight, old.weight.expand(3, 8))
    assert torch.equal(loaded.bias, old.bias.expand(3, 8))


def test_ratios_of_sn_are_a_start():
    old = randomize(SN(8))
    with torch.no_grad():
        old.mean_weight.copy_(old.var_weight)
    made = sn_mm.convert_norm(nn.Sequential(old), 'EN')[0]
    torch.testing.assert_close(made.ratios()['var'], old.ratios()['var'])
    x = torch.randn(2, 8, 4, 4)
    want = old.ratios()['var'].expand(2, 3)
    torch.testing.assert_close(made.sample_ratios(x), want)


def test_a_frozen_batch_norm_stays_what_it_was():
    norm = randomize(nn.BatchNorm2d(8))
    norm.requires_grad_(False)
    x = torch.randn(2, 8, 5, 5)
    want = norm.eval()(x)
    made = sn_mm.convert_norm(norm.train(), 'EN')
    assert type(made) is EN
    assert relative_error(made(x), want) < 1e-5


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(statistics=('in', 'xn')), "unknown statistic 'xn'"),
        (dict(statistics=('gn',), num_groups=3), 'num_groups=3 does not'),
        (dict(reduction=0), 'reduction'),
        (dict(statistics=('in',), bn_eval=True), 'bn_eval=True'),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text):
        EN(8, **options)


def test_settings_are_checked_in_loading():
    state = EN(8).state_dict()
    with pytest.raises(sn_mm.checkpoints.CheckpointError, match='statistics'):
        EN(8, statistics=('bn', 'in', 'ln')).load_state_dict(state)
