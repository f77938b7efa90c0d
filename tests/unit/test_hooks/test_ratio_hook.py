# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""RatioHook in real runs: records, scalars, resumption."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from sn_mm import SN
from sn_mm.analysis.history import HistoryError, read_history
from sn_mm.anatomy.ratios import ratios_of_model
from sn_mm.hooks import RatioHook
from tests.builders import Toy, toy_runner


def run(folder, epochs=2, **options):
    """2 iterations an epoch."""
    hook = dict(type='RatioHook', **{'interval': 1, **options})
    runner = toy_runner(folder, epochs=epochs, custom_hooks=[hook])
    runner.train()
    return runner


def iterations(folder) -> list[int]:
    return [r.iteration for r in read_history(folder).records]


def test_every_interval_and_both_ends(tmp_path):
    every = dict(
        a=(dict(interval=1), [0, 1, 2, 3, 4]),
        b=(dict(interval=3), [0, 3, 4]),
        c=(dict(interval=1, by_epoch=True), [0, 2, 4]),
        d=(dict(interval=100), [0, 4]),
    )
    for name, (options, times) in every.items():
        run(tmp_path / name, **options)
        assert iterations(tmp_path / name) == times


def test_history_holds_what_the_layers_chose(tmp_path):
    runner = run(tmp_path)
    history = read_history(tmp_path)
    (info,) = history.layers
    assert info.name == 'norm' and info.kind == '3x3'
    assert info.statistics == ('in', 'ln', 'bn')
    (first,), (last,) = (history.records[i].ratios for i in (0, -1))
    np.testing.assert_allclose(first.mean, 1 / 3, atol=1e-5)
    (now,) = ratios_of_model(runner.model)
    np.testing.assert_allclose(last.mean, now.mean, atol=1e-5)
    assert (last.mean != first.mean).any()


def test_scalars_of_the_visualizer(tmp_path):
    run(tmp_path, history=False)
    assert not list(tmp_path.glob('*.jsonl'))
    (file,) = tmp_path.rglob('scalars.json')
    lines = [json.loads(x) for x in file.read_text().splitlines()]
    lines = [x for x in lines if 'ratios/norm/mean_in' in x]
    assert [x['step'] for x in lines] == [0, 1, 2, 3, 4]
    keys = {k for k in lines[0] if k.startswith('ratios/')}
    assert keys == {
        f'ratios/norm/{kind}_{name}'
        for kind in ('mean', 'var')
        for name in ('in', 'ln', 'bn')
    }
    assert sum(lines[-1][f'ratios/norm/var_{n}'] for n in ('in', 'ln', 'bn'))


def test_without_scalars(tmp_path):
    run(tmp_path, scalars=False)
    for file in tmp_path.rglob('scalars.json'):
        assert 'ratios/' not in file.read_text()
    assert len(iterations(tmp_path)) == 5


def test_training_is_the_same_with_and_without(tmp_path):
    with_hook = run(tmp_path / 'a').model.state_dict()
    runner = toy_runner(tmp_path / 'b', epochs=2)
    runner.train()
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, with_hook[key]), key


def resume(folder, checkpoint):
    runner = toy_runner(
        folder,
        epochs=3,
        resume=True,
        load_from=str(checkpoint),
        custom_hooks=[dict(type='RatioHook', interval=1)],
    )
    runner.train()


def test_a_resumed_run_goes_on(tmp_path):
    run(tmp_path)
    before = read_history(tmp_path).records
    resume(tmp_path, tmp_path / 'epoch_1.pth')
    after = read_history(tmp_path).records
    assert [r.iteration for r in after] == [0, 1, 2, 3, 4, 5, 6]
    for one, other in zip(before[:3], after):
        assert (one.ratios[0].mean == other.ratios[0].mean).all()


def test_a_broken_history_ends_the_resumption(tmp_path):
    run(tmp_path)
    file = tmp_path / 'ratios.jsonl'
    text = file.read_text().splitlines()
    text[2] = '{}'
    file.write_text('\n'.join(text) + '\n')
    with pytest.raises(HistoryError, match='line 3 is broken'):
        resume(tmp_path, tmp_path / 'epoch_1.pth')
    assert file.read_text().splitlines() == text


def test_a_new_run_in_the_same_folder(tmp_path):
    run(tmp_path)
    run(tmp_path, epochs=1)
    assert iterations(tmp_path) == [0, 1, 2]
    assert iterations(Path(tmp_path) / 'ratios.1.jsonl') == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    'interval, error', [(0, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_intervals_out_of_range(interval, error):
    with pytest.raises(error, match='interval'):
        RatioHook(interval)


def test_a_model_without_sn(tmp_path):
    runner = toy_runner(
        tmp_path,
        Toy(nn.BatchNorm2d(4)),
        custom_hooks=[dict(type='RatioHook')],
    )
    with pytest.raises(ValueError, match='no SN layer; build it with norm_c'):
        runner.train()


# -- how far --
KINDS = ('mean', 'var')


def texts(messages):
    return [m for m in messages if 'have moved by' in m]


def logged(monkeypatch):
    from sn_mm.hooks import ratio_hook

    said = []
    monkeypatch.setattr(
        ratio_hook, 'print_log', lambda text, **_: said.append(text)
    )
    return said


def test_ratios_that_hardly_moved_are_told(tmp_path, monkeypatch):
    said = logged(monkeypatch)
    with pytest.warns(UserWarning, match='ratio_lr_mult=20') as told:
        run(tmp_path, interval=100)
    assert len([w for w in told if 'hardly moved' in str(w.message)]) == 1
    (text,) = texts(said)
    history = read_history(tmp_path)
    (first,), (last,) = (history.records[i].ratios for i in (0, -1))
    far = max(abs(getattr(last, k) - getattr(first, k)).max() for k in KINDS)
    assert f'moved by {far:.3f} since' in text and '(norm)' in text


def test_a_factor_that_was_too_small_is_told(tmp_path):
    runner = toy_runner(
        tmp_path,
        custom_hooks=[dict(type='RatioHook', interval=100)],
        cfg=dict(optim_wrapper=dict(paramwise_cfg=dict(ratio_lr_mult=3.0))),
    )
    with pytest.warns(UserWarning, match='hardly moved.*mult=3 .*too little'):
        runner.train()


def test_ratios_that_moved_do_not_warn(tmp_path, monkeypatch):
    said = logged(monkeypatch)
    hook = dict(type='RatioHook', interval=100)
    runner = toy_runner(tmp_path, epochs=2, custom_hooks=[hook])
    runner.register_hook(Pushes(), priority='HIGH')
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='the ratios have hardly')
        runner.train()
    assert 'moved by 0.2' in texts(said)[0]


class Pushes(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        norm = runner.model.norm
        norm.set_ratios_(
            {
                'mean': torch.tensor([0.1333, 0.4333, 0.4334]),
                'var': torch.full((3,), 1 / 3),
            }
        )


def test_a_resumed_run_counts_from_the_first_start(tmp_path, monkeypatch):
    run(tmp_path, epochs=2)
    said = logged(monkeypatch)
    hook = dict(type='RatioHook', interval=1)
    runner = toy_runner(tmp_path, epochs=3, custom_hooks=[hook], resume=True)
    runner.train()
    history = read_history(tmp_path)
    (first,), (last,) = (history.records[i].ratios for i in (0, -1))
    far = max(abs(getattr(last, k) - getattr(first, k)).max() for k in KINDS)
    assert f'moved by {far:.3f} since' in texts(said)[0]


def test_frozen_ratios_are_not_counted():
    from sn_mm.hooks.ratio_hook import how_far

    model = nn.Sequential(SN(4), SN(4))
    start = ratios_of_model(model)
    model[0].requires_grad_(False)
    assert how_far(model, start) == {'1': 0.0}
