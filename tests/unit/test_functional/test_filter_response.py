# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Filter Response Normalization: timm's numbers, the TLU, and eps."""

import copy

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

import sn_mm
from sn_mm.functional.reference import filter_response_norm_reference
from sn_mm.layers import FRN
from tests.family import fixture_of, public_run
from tests.utils import randomize, relative_error


def test_numbers_of_the_public_layer():
    public_run(FRN(6, tlu=False).double(), fixture_of('frn_noact'))


def test_the_tlu_is_a_threshold_of_each_channel():
    with_tlu, without = FRN(4), FRN(4, tlu=False)
    randomize(with_tlu)
    without.weight, without.bias = with_tlu.weight, with_tlu.bias
    x = torch.randn(2, 4, 3, 3)
    tau = with_tlu.tau.view(1, 4, 1, 1)
    below = without(x) < tau
    assert below.any() and not below.all()
    y = with_tlu(x)
    assert relative_error(y, torch.maximum(without(x), tau)) < 1e-6
    assert torch.equal(y[below], tau.expand_as(y)[below])
    assert (FRN(4)(x) >= 0).all()  # thresholds start at 0


def test_only_the_input_is_kept():
    layer, x = FRN(4), torch.randn(2, 4, 16, 16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t) or t, lambda t: t
    ):
        layer(x).sum()
    assert [t.data_ptr() for t in kept if t.numel() >= x.numel()] == [
        x.data_ptr()
    ]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_gradient_of_a_threshold_that_few_outputs_reach(dtype):
    """It is what two sums of all gradients differ by."""
    layer = FRN(2)
    with torch.no_grad():
        layer.tau.fill_(-3)
    x = torch.randn(2, 2, 64, 64, dtype=dtype)
    dy = torch.rand_like(x)
    reference = copy.deepcopy(layer).double()
    y = filter_response_norm_reference(
        *(x.double(), reference.weight, reference.bias, reference.tau),
        eps=reference.eps,
    )
    y.backward(dy.double())
    layer(x).backward(dy)
    assert (y == -3).double().mean() < 0.01
    error = (layer.tau.grad - reference.tau.grad).abs()
    assert (error < 1e-6 * dy.double().sum((0, 2, 3))).all()


def test_eps_is_its_own_unless_a_config_says_so():
    """mmcv passes 1e-5 to every norm that a config gives none."""
    for cfg, want in ((dict(), 1e-6), (dict(eps=1e-5), 1e-5)):
        layer = build_norm_layer(dict(type='FRN', **cfg), 4)[1]
        assert layer.eps == want
    assert FRN(4).eps == 1e-6 and FRN(4, 1e-5).eps == 1e-5
    old = nn.BatchNorm2d(4, eps=1e-5)
    assert sn_mm.convert_norm(nn.Sequential(old), 'FRN')[0].eps == 1e-6


def test_no_mean_is_taken_out():
    layer = FRN(1, tlu=False)
    assert relative_error(layer(torch.full((1, 1, 4), 3.0)), torch.ones(1)) < (
        1e-6
    )
