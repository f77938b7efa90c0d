# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Long lists of names in messages."""

import pytest

from sn_mm.utils import join_names


@pytest.mark.parametrize(
    'count, text', [(0, ''), (1, 'a'), (2, 'a, b'), (5, 'a, b and 3 more')]
)
def test_names_beyond_the_limit_are_counted(count, text):
    assert join_names(iter('abcde'[:count]), limit=2) == text
