# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from demo.data_folder import make_demo_data
from demo.options import DemoOptions


@pytest.fixture(scope='session')
def options():
    # Index 2 is a crowd and index 5 is empty, so 6 images have every case.
    return DemoOptions(train=6, val=6, size=(64, 96), seed=3)


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory, options):
    """A small demo data set; tests read it only."""
    out = tmp_path_factory.mktemp('demo') / 'digits'
    make_demo_data(out, options)
    return out
