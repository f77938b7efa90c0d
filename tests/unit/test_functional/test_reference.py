# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The oracles against PyTorch's own norms, where one statistic is left."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sn_mm.functional.reference import (
    population_norm_reference,
    switchable_norm_reference,
)

SHAPE = (3, 4, 5, 6)


def drawn(*shape, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=gen, dtype=torch.double)


def alone(name, x, **options):
    one = torch.zeros(1, dtype=x.dtype)
    return switchable_norm_reference(
        x, one, one, statistics=(name,), **options
    )


@pytest.mark.parametrize(
    'name, norm',
    [
        ('in', lambda x: F.instance_norm(x)),
        ('ln', lambda x: F.layer_norm(x, x.shape[1:])),
        ('bn', lambda x: F.batch_norm(x, None, None, training=True)),
        ('gn', lambda x: F.group_norm(x, 2)),
    ],
)
@pytest.mark.parametrize('shape', [SHAPE, (3, 4, 7), (2, 4, 2, 3, 2)])
def test_one_statistic_is_pytorchs_norm(name, norm, shape):
    x = drawn(*shape)
    torch.testing.assert_close(alone(name, x, num_groups=2), norm(x))


def test_affine_and_running_statistics():
    x, weight, bias = drawn(*SHAPE), drawn(4, seed=1), drawn(4, seed=2)
    mean, var = drawn(4, seed=3), drawn(4, seed=4).square() + 0.1
    want = F.batch_norm(x, mean, var, weight, bias)
    affine = dict(weight=weight, bias=bias)
    running = dict(running_mean=mean, running_var=var)
    got = alone('bn', x, **affine, **running)
    torch.testing.assert_close(got, want)
    got = population_norm_reference(x, mean, var, **affine)
    torch.testing.assert_close(got, want)


def test_unbiased_instance_variance():
    x, eps = drawn(*SHAPE), 1e-5
    std = (x.var((2, 3), keepdim=True) + eps).sqrt()
    want = (x - x.mean((2, 3), keepdim=True)) / std
    torch.testing.assert_close(alone('in', x, unbiased=True), want)


def test_moments_are_mixed_and_not_outputs():
    x = drawn(*SHAPE)
    logits = drawn(2, 3, seed=5)
    means = [x.mean(d, keepdim=True) for d in ((2, 3), (1, 2, 3), (0, 2, 3))]
    variances = [
        (x - m).square().mean(d, keepdim=True)
        for m, d in zip(means, ((2, 3), (1, 2, 3), (0, 2, 3)))
    ]
    mu, var = (
        sum(r * t for r, t in zip(w.softmax(-1), parts))
        for w, parts in zip(logits, (means, variances))
    )
    want = (x - mu) / (var + 1e-5).sqrt()
    torch.testing.assert_close(switchable_norm_reference(x, *logits), want)


def test_groups_of_channels_have_their_own_ratios():
    x, (means, variances) = drawn(*SHAPE), drawn(2, 2, 3, seed=6)
    got = switchable_norm_reference(
        x, means, variances, statistics=('in', 'gn', 'bn'), num_groups=2
    )
    for group, part in enumerate(x.split(2, dim=1)):
        want = switchable_norm_reference(
            part,
            means[group],
            variances[group],
            statistics=('in', 'ln', 'bn'),
        )
        torch.testing.assert_close(got[:, 2 * group : 2 * group + 2], want)


def test_a_single_position_has_no_instance_statistic():
    x, logits = drawn(5, 4, 1, 1), drawn(2, 3, seed=7)
    got = switchable_norm_reference(x, *logits)
    want = switchable_norm_reference(
        x, *logits[:, 1:], statistics=('ln', 'bn')
    )
    torch.testing.assert_close(got, want)
