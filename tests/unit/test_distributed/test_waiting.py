# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A process that does not call a layer: how long the others wait, and what
they are told."""

from __future__ import annotations

import datetime
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

import sn_mm
from sn_mm.distributed import named_group
from sn_mm.distributed.groups import SyncGroup
from sn_mm.distributed.waiting import name_of, waiting_for_others
from tests.distributed import run_processes

SECONDS = 4


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), sn_mm.SyncSN(8))


def skip_the_layer(rank: int) -> dict:
    """The second process does not call what the first one calls."""
    timeout = datetime.timedelta(seconds=SECONDS)
    dist.group.WORLD._get_backend(
        torch.device('cpu')
    ).options._timeout = timeout
    model = Model().train()
    named_group(None)  # a collective of its own
    store = dist.distributed_c10d._get_default_store()
    result = {}
    if rank == 0:
        try:
            model.backbone(torch.randn(2, 3, 6, 6))
        except RuntimeError as error:
            result['said'] = str(error)
            result['cause'] = type(error.__cause__).__name__
        store.set('waited', '')
    else:  # until the other one has given up, however slow it is
        store.wait(['waited'], datetime.timedelta(minutes=5))
    return result


@pytest.fixture(scope='module')
def skipped():
    return run_processes(skip_the_layer, 2)[0]


def test_the_layer_is_named(skipped):
    said = skipped['said']
    assert said.startswith('SyncSN backbone.1: process 0 waited in vain')
    assert 'must call the layer in each step' in said
    assert '\n' not in said and skipped['cause'] == 'RuntimeError'


def test_groups_wait_as_long_as_the_job_does(skipped):
    """And not for torch's half an hour."""
    assert f'Timed out waiting {1000 * SECONDS}ms' in skipped['said']


# -- names -----------------------------------------------------------------
def test_names_in_models():
    model = Model()
    assert name_of(model.backbone[1]) == 'backbone.1'
    wrapped = nn.parallel.DataParallel(model)
    assert name_of(model.backbone[1]) == 'backbone.1'
    assert name_of(wrapped.module) == ''
    assert name_of(sn_mm.SyncSN(4)) == ''


@pytest.fixture
def frozen_objects():
    """As before a fork: the collector no longer lists what there is."""
    yield gc.freeze
    gc.unfreeze()


def test_names_of_what_the_collector_does_not_see(frozen_objects):
    model = Model()
    frozen_objects()
    assert name_of(model.backbone[1]) == 'backbone.1'


def test_names_in_a_model_that_another_thread_holds():
    """As in the backward of a GPU, whose thread has no frame of the model."""
    model = Model()
    with ThreadPoolExecutor(1) as pool:
        named = pool.submit(name_of, model.backbone[1])
        assert named.result() == 'backbone.1'


def test_names_in_a_model_that_an_object_holds():
    runner = SimpleNamespace(model=Model())
    assert name_of(runner.model.backbone[1]) == 'backbone.1'


def test_objects_that_raise_are_passed_over():
    gone = Model()
    proxy = weakref.proxy(gone)
    del gone
    gc.collect()
    model = Model()
    assert name_of(model.backbone[1]) == 'backbone.1'
    with pytest.raises(ReferenceError):
        vars(proxy)


def test_wrappers_inside_of_a_model_have_no_part_in_names():
    model = Model()
    layer = model.backbone[1]
    model.backbone = nn.parallel.DataParallel(model.backbone)
    assert name_of(layer) == 'backbone.1'


def test_a_model_that_holds_itself():
    model = Model()
    model.backbone.add_module('up', model)
    assert name_of(model.backbone[1]).endswith('backbone.1')


def test_outside_of_a_layer_the_channels_are_named(monkeypatch):
    monkeypatch.setattr(dist, 'get_rank', lambda: 3)
    with pytest.raises(RuntimeError, match='of 16 channels .*process 3'):
        with waiting_for_others(16):
            raise RuntimeError('Timed out')


def test_other_errors_pass_as_they_are():
    with pytest.raises(ValueError, match='^mine$'):
        with waiting_for_others(16):
            raise ValueError('mine')
    assert SyncGroup(spec='machine').resolve() is None
