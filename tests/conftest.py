# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
# ruff: noqa: E402
import gc
import os
import sys

import pytest
import torch

if not torch.cuda.is_available():
    # read when triton is imported, which mmengine's imports lead to where
    # PyTorch is a build for GPUs
    os.environ.setdefault('TRITON_INTERPRET', '1')

from tests.paths import PLAIN, python_path

# before mmengine is imported, here and in the processes of tests
sys.path.insert(0, str(PLAIN))
os.environ['PYTHONPATH'] = python_path(PLAIN)

from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from demo.data_folder import make_demo_data
from demo.options import DemoOptions
from tests.public import networks


def pytest_collection_finish():
    """What is imported by now stays: no collection need look at it again.

    Data sets of mmengine collect garbage while they are built, among a million
    objects of the toolboxes.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # libraries look for what they leave behind when Python ends


@pytest.fixture(autouse=True)
def default_scope_of_its_own():
    """What a test does to mmengine's default scope ends with it.

    So does its visualizer, which runs look up by a name that all of them use.
    """
    before = [dict(kind._instance_dict) for kind in (DefaultScope, Visualizer)]
    yield
    for kind, instances in zip((DefaultScope, Visualizer), before):
        kind._instance_dict.clear()
        kind._instance_dict.update(instances)


@pytest.fixture(scope='session')
def tiny_demo_data(tmp_path_factory):
    """Demo data of four small training images; tests read it only."""
    out = tmp_path_factory.mktemp('tiny_demo_data') / 'demo'
    make_demo_data(out, DemoOptions(train=4, val=2, size=(64, 96)))
    return out


@pytest.fixture(scope='session')
def released(tmp_path_factory):
    """Function: layout -> (the public network, its file), written once."""
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
    """One image for the public networks, (1, 3, 64, 64)."""
    return torch.randn(
        1, 3, 64, 64, generator=torch.Generator().manual_seed(1)
    )
