# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Synthetic files of the public layouts, written once for all tests."""

import pytest
import torch

from . import networks


@pytest.fixture(scope='session')
def released(tmp_path_factory):
    """Function: layout -> (the public network, its file)."""
    folder = tmp_path_factory.mktemp('released')
    made = {}

    def get(layout):
        if layout not in made:
            model = networks.original(layout)
            path = networks.save(model, layout, folder / f'{layout}.pth')
            made[layout] = (model, path)
        return made[layout]

    return get


@pytest.fixture(scope='session')
def image():
    return torch.randn(
        1, 3, 64, 64, generator=torch.Generator().manual_seed(1)
    )
