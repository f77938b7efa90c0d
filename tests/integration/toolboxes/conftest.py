# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same numbers whichever tests run before."""
    torch.manual_seed(0)
