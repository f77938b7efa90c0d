# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Averages of batch moments, over batches and over processes."""

from __future__ import annotations

import pytest
import torch

from sn_mm.recalibrate.averages import MomentAverage, merge_averages


def test_large_means_cost_no_digits():
    average = MomentAverage(2)
    gen = torch.Generator().manual_seed(0)
    means = 1e6 + torch.randn(50, 2, generator=gen, dtype=torch.double)
    variances = torch.rand(50, 2, generator=gen, dtype=torch.double)
    parts = [MomentAverage(2), average]
    for i in range(50):
        parts[i % 2].update(means[i], variances[i])
        parts[1].update(means[i] * 7, variances[i], torch.tensor(0))
    count, mean, var = merge_averages([p.flat() for p in parts])
    assert count == 50
    torch.testing.assert_close(mean, means.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(var, variances.mean(0), rtol=1e-14, atol=0)
    var = merge_averages([p.flat() for p in parts], second_moment=True)[2]
    whole = variances.mean(0) + means.var(0, unbiased=False)
    torch.testing.assert_close(var, whole, rtol=1e-9, atol=0)


def drawn(batches, channels=3):
    gen = torch.Generator().manual_seed(1)
    return torch.randn(batches, 7, channels, generator=gen, dtype=torch.double)


def test_one_process_averages_the_moments_of_its_batches():
    batches, average = drawn(5), MomentAverage(3)
    for batch in batches:
        average.update(batch.mean(0), batch.var(0, unbiased=False))
    count, mean, var = merge_averages([average.flat()])
    assert count == 5
    torch.testing.assert_close(mean, batches.mean((0, 1)))
    want = batches.var(1, unbiased=False).mean(0)
    torch.testing.assert_close(var, want)


@pytest.mark.parametrize('second_moment', [False, True])
def test_it_does_not_matter_how_batches_are_spread(second_moment):
    batches = drawn(9)
    results = []
    for owners in ([0] * 9, [0, 1, 2] * 3, [2, 2, 2, 2, 2, 2, 2, 0, 0]):
        parts = [MomentAverage(3) for _ in range(3)]
        for owner, batch in zip(owners, batches):
            moments = batch.mean(0), batch.var(0, unbiased=False)
            parts[owner].update(*moments)
        results.append(
            merge_averages([p.flat() for p in parts], second_moment)
        )
    for count, mean, var in results[1:]:
        assert count == 9
        torch.testing.assert_close(mean, results[0][1])
        torch.testing.assert_close(var, results[0][2])


def test_nothing_seen_is_no_number_out_of_nowhere():
    average = MomentAverage(2)
    average.update(torch.ones(2), torch.ones(2), torch.tensor(0))
    count, mean, var = merge_averages([average.flat()])
    assert count == 0 and not mean.any() and not var.any()
