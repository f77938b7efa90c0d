# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Arguments of the public code, and what is said of them."""

from __future__ import annotations

import pytest

from sn_mm import SN, SSN, SyncSN


@pytest.mark.parametrize('cls', [SN, SyncSN, SSN])
@pytest.mark.parametrize(
    'name, ours',
    [
        ('using_bn', 'statistics='),
        ('using_moving_average', 'BatchAverageHook'),
        ('last_gamma', 'zero_init_residual'),
    ],
)
def test_public_arguments_name_ours(cls, name, ours):
    with pytest.raises(TypeError, match=ours):
        cls(8, **{name: True})


def test_large_momentum_warns():
    with pytest.warns(UserWarning, match='0.997 is 0.003'):
        SN(8, momentum=0.997)
