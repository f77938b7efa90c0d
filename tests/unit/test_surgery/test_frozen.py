# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What may take the place of a frozen norm, and goes on as it did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm import SN
from sn_mm.layers import BRN, FRN, PN
from sn_mm.surgery.frozen import keep_function, statistic_of, takes_over
from tests.utils import randomize


@pytest.mark.parametrize(
    'norm, statistic',
    [
        (nn.BatchNorm2d(4), 'bn'),
        (nn.SyncBatchNorm(4), 'bn'),
        (nn.InstanceNorm2d(4), 'in'),
        (nn.InstanceNorm2d(4, track_running_stats=True), None),
        (nn.GroupNorm(1, 4), 'ln'),
        (nn.GroupNorm(2, 4), 'gn'),
        (SN(4), None),
        (BRN(4), 'bn'),
        (FRN(4), None),
    ],
)
def test_names_of_statistics(norm, statistic):
    assert statistic_of(norm) == statistic


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'old, new, takes',
    [
        (nn.BatchNorm2d(4), SN(4), True),
        (nn.BatchNorm2d(4), SN(4, statistics=('in', 'ln')), False),
        (nn.GroupNorm(2, 4), SN(4), False),
        (
            nn.GroupNorm(2, 4),
            SN(4, statistics=('in', 'gn'), num_groups=2),
            True,
        ),
        (
            nn.GroupNorm(2, 4),
            SN(4, statistics=('in', 'gn'), num_groups=4),
            False,
        ),
        (nn.BatchNorm2d(4), BRN(4), True),
        (nn.BatchNorm2d(4), FRN(4), False),
        (nn.InstanceNorm2d(4), PN(4), False),
        (SN(4), SN(4), True),
        (BRN(4), SN(4), True),
        (FRN(4), SN(4), False),
        (FRN(4), BRN(4), True),
        (SN(4), nn.BatchNorm2d(4), True),
    ],
)
def test_who_can_go_on(old, new, takes):
    assert takes_over(old, new) is takes


@pytest.mark.parametrize(
    'old, statistics',
    [
        (nn.BatchNorm2d(4), ('in', 'ln', 'bn')),
        (nn.InstanceNorm2d(4, affine=True), ('in', 'ln', 'bn')),
        (nn.GroupNorm(1, 4), ('ln', 'bn')),
        (nn.GroupNorm(2, 4), ('gn', 'in')),
    ],
)
def test_the_function_is_kept_in_training_too(old, statistics):
    randomize(old).eval()
    new = SN(4, statistics=statistics, num_groups=2)
    with torch.no_grad():
        new.weight.copy_(old.weight)
        new.bias.copy_(old.bias)
        if isinstance(old, nn.BatchNorm2d):
            new.running_mean.copy_(old.running_mean)
            new.running_var.copy_(old.running_var)
    keep_function(old, new)
    x = torch.randn(3, 4, 5, 6)
    for training in (True, False):
        torch.testing.assert_close(
            new.train(training)(x), old(x), atol=1e-4, rtol=1e-4
        )
