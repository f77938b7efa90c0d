# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest

from .layouts import make_data


@pytest.fixture(scope='session')
def data_folder(tmp_path_factory):
    """A folder with ``data/`` in it, for runs that start there; read only."""
    root = tmp_path_factory.mktemp('layouts')
    make_data(root)
    return root
