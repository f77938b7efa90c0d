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
