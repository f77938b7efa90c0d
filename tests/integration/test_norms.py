# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The whole norm family through one tester: tests/norm_tester.py."""

import pytest

from sn_mm.layers import RowNorm, Synchronized
from tests.norm_tester import NORMS, REPEATS, REPRESENTATIVES, NormTester

ROWS = {norm.name: norm for norm in NORMS}


class TestNorms(NormTester):
    """Every test for every row of the table."""


def kinds(name: str) -> set[type]:
    """What a row's class is, beside a norm that may be synchronized."""
    every = {*RowNorm.__mro__, Synchronized}
    return set(type(ROWS[name].build()).__mro__) - every


@pytest.mark.parametrize('name', REPEATS)
def test_what_is_slow_for_a_row_runs_for_another_of_its_kind(name):
    always = set(ROWS) - set(REPEATS)
    assert any(kinds(name) & kinds(other) for other in always)


def test_representatives_always_run():
    assert set(REPRESENTATIVES) <= set(ROWS) - set(REPEATS)
