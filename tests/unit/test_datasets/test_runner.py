# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is looked at before train, val and test."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from sn_mm.datasets import DataError
from sn_mm.datasets import runner as module


@pytest.fixture
def runner():
    made = object.__new__(RUNNERS.get('DataCheckedRunner'))
    made.cfg = Config(
        {
            f'{k}_dataloader': dict(
                dataset=dict(type='MadeUp', data_root=f'/none/{k}')
            )
            for k in ('train', 'val', 'test')
        }
    )
    return made


@pytest.mark.parametrize(
    'name, places', [('train', 'train'), ('val', 'val'), ('test', 'test')]
)
def test_missing_data_ends_it_before_anything_runs(
    runner, monkeypatch, name, places
):
    monkeypatch.setattr(Runner, name, lambda self: pytest.fail('it ran'))
    with pytest.raises(DataError, match=f'/none/{places}'):
        getattr(runner, name)()


@pytest.mark.parametrize(
    'name, loaders',
    [
        ('train', ('train_dataloader', 'val_dataloader')),
        ('val', ('val_dataloader',)),
        ('test', ('test_dataloader',)),
    ],
)
def test_then_it_is_mmengines(runner, monkeypatch, name, loaders):
    looked = []
    monkeypatch.setattr(
        module, 'check_dataloaders', lambda cfg, names: looked.append(names)
    )
    monkeypatch.setattr(Runner, name, lambda self: 'result')
    assert getattr(runner, name)() == 'result'
    assert looked == [loaders]
