# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Arguments that count something."""

import pytest

from sn_mm.utils import check_count


@pytest.mark.parametrize(
    'value, error',
    [
        (0, ValueError),
        (-3, ValueError),
        (2.0, TypeError),
        (True, TypeError),
        ('2', TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_count_is_named(value, error):
    with pytest.raises(error, match=f'images must .*got {value!r}'):
        check_count('images', value)


def test_counts_pass():
    check_count('images', 1)
