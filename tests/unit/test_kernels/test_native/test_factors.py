# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What stands between a rule and the sweeps: what C does not take.

That it computes as PyTorch does is in test_kernels/test_factors.py.
"""

from __future__ import annotations

import torch

from sn_mm.kernels import factors as plain
from sn_mm.kernels.native import factors as native
from tests.unit.test_kernels.test_factors import C, N, drawn, of_rows


def test_c_leaves_what_it_cannot_read():
    """Negative views, other dtypes, and factors in float64."""
    _, moments, _ = of_rows()
    rule = [drawn(N, C, seed=s) for s in (5, 6, 7)]
    want = plain.of_output(moments, *rule, torch.float32)
    negated = torch._neg_view(-rule[0])
    got = native.of_output(moments, negated, *rule[1:], torch.float32)
    torch.testing.assert_close(got, want)
    wide = native.of_output(moments, *rule, torch.float64)
    assert wide[0].dtype == torch.float64
    strided = [t.t().contiguous().t() for t in rule]
    got = native.of_output(moments, *strided, torch.float32)
    torch.testing.assert_close(got, want)


def test_results_that_hold_an_element_several_times(monkeypatch):
    """Gradients are of the result as it is, every element of its own."""

    def full_of_nan(*shape):
        return torch.full(shape, float('nan'), dtype=torch.float64)

    monkeypatch.setattr(native, 'doubles', full_of_nan)
    _, moments, _ = of_rows()
    sums = drawn(2, N, C, seed=4)
    expanded = (
        drawn(N, 1, seed=5).expand(N, C),
        drawn(1, C, seed=6).expand(N, C),
        drawn(1, seed=7).expand(C),
    )
    for i in range(3):
        rule = [*expanded[i:], *expanded[:i]]
        got = native.cotangents(moments, sums, *rule, torch.float32)
        want = plain.cotangents(moments, sums, *rule, torch.float32)
        for g, w in zip(got, want):
            assert g.shape == w.shape
            torch.testing.assert_close(g, w, rtol=1e-12, atol=1e-12)
