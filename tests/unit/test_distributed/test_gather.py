# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import torch

from sn_mm.distributed import merge_moments


def test_merged_moments_are_those_of_the_union():
    torch.manual_seed(0)
    parts = [torch.randn(n, 3).double() + 1e6 for n in (1, 7, 50)]
    means = torch.stack([p.mean(0) for p in parts] + [torch.zeros(3)])
    variances = torch.stack(
        [p.var(0, unbiased=False) for p in parts] + [torch.zeros(3)]
    )
    counts = torch.tensor([[1.0], [7.0], [50.0], [0.0]]).double()
    mean, var, total = merge_moments(means, variances, counts)
    union = torch.cat(parts)
    torch.testing.assert_close(mean, union.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(
        var, union.var(0, unbiased=False), rtol=1e-8, atol=0
    )
    assert total == 58


def test_nothing_at_all_merges_to_zero():
    mean, var, total = merge_moments(
        torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 1)
    )
    assert not mean.any() and not var.any() and total == 0
