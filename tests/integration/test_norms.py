# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The whole norm family through one tester: tests/norm_tester.py."""

from tests.norm_tester import NormTester


class TestNorms(NormTester):
    """Every test for every row of the table."""
