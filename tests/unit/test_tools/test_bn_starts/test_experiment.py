# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The experiment of docs/from_bn.md: runs, their configs, what came out."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from bn_starts import results, starts
from bn_starts.configs import config_text
from bn_starts.runs import SERIES, STARTS, Run, all_runs
from sn_mm.cli import build_model, register_toolbox


def config_of(run, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        config_text(run, Path('start.pth'), Path('data'), 'train.json')
    )
    return Config.fromfile(path)


def test_every_start_is_run_once_before_another_seed():
    runs = all_runs(['a', 'c'])
    first = [r.start for r in runs[: len(STARTS)]]
    assert first == list(STARTS) and {r.seed for r in runs[:9]} == {0}
    assert len(runs) == len(set(runs)) == 3 * (9 + 4)
    assert [r.series for r in runs] == ['a'] * 27 + ['c'] * 12


@pytest.mark.parametrize('series', SERIES)
def test_configs_are_what_the_table_says(series, tmp_path):
    for start in SERIES[series].starts:
        cfg = config_of(Run(series, start, 1), tmp_path)
        how = STARTS[start]
        backbone = cfg.model.backbone
        norm_cfg = dict(backbone.norm_cfg)
        assert norm_cfg == how.norm_cfg
        assert backbone.norm_eval is how.norm_eval
        assert backbone.init_cfg.checkpoint == 'start.pth'
        assert cfg.train_dataloader.batch_size == SERIES[series].batch
        assert cfg.randomness.seed == 1
        rates = cfg.optim_wrapper.paramwise_cfg.custom_keys
        faster = rates.get('mean_weight', {}).get('lr_mult', 1)
        assert faster == how.ratio_rate


def test_few_labels_make_as_many_steps(tmp_path):
    """50 pictures and 16 epochs, 205 pictures and 4."""
    all_, few = (
        config_of(Run(s, 'sn-equal', 0), tmp_path).train_cfg for s in 'ab'
    )
    assert all_.max_epochs * 205 == pytest.approx(
        few.max_epochs * 50, rel=0.03
    )
    assert few.max_epochs / few.val_interval == all_.max_epochs


@pytest.mark.parametrize('series, start', [('a', 'gn-affine'), ('d', 'bn')])
def test_networks_run(series, start, tmp_path):
    cfg = config_of(Run(series, start, 0), tmp_path)
    register_toolbox(cfg)
    model = build_model(cfg).eval()
    with torch.no_grad():
        feats = model.extract_feat(torch.rand(1, 3, 64, 96))
        if series == 'd':
            assert model.decode_head(feats).shape == (1, 3, 8, 12)
        else:
            scores, _ = model.rpn_head(feats)
            assert scores[0].shape == (1, 3, 16, 24)


def test_labelled_pictures_are_spread_over_the_set(tmp_path):
    images = [dict(id=i, file_name=f'{i}.jpg') for i in range(20)]
    annotations = [dict(id=10 * i, image_id=i) for i in range(20)]
    whole = dict(images=images, annotations=annotations, categories=[])
    (tmp_path / 'train.json').write_text(json.dumps(whole))
    file = starts.labelled(tmp_path, tmp_path, 5)
    found = json.loads(Path(file).read_text())
    assert [i['id'] for i in found['images']] == [0, 4, 8, 12, 16]
    assert [a['image_id'] for a in found['annotations']] == [0, 4, 8, 12, 16]


def finished(work, run, values, done=True):
    folder = work / run.name / '20260101' / 'vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(dict(loss=1.0, step=3))] + [
        json.dumps({'coco/bbox_mAP': value / 100, 'step': epoch})
        for epoch, value in enumerate(values, 1)
    ]
    (folder / 'scalars.json').write_text('\n'.join(lines))
    if done:
        (work / run.name / 'done').touch()


def test_tables_and_curves_of_what_is_done(tmp_path):
    assert results.table(tmp_path, 'a') is None
    for seed, frozen, sn in ((0, 50.0, 53.0), (1, 48.0, 50.0)):
        finished(tmp_path, Run('a', 'bn-frozen', seed), [30, frozen])
        finished(tmp_path, Run('a', 'sn-equal', seed), [40, sn])
    finished(tmp_path, Run('a', 'bn-frozen', 2), [99.0], done=False)
    lines = results.table(tmp_path, 'a').splitlines()
    assert lines[2] == (
        "| SN, BN's affine, equal ratios | 53.0 | 50.0 | - | 51.5 | 2.1 "
        '| +2.5 ± 0.7 |'
    )
    assert lines[3] == (
        '| BN, statistics frozen | 50.0 | 48.0 | - | 49.0 | 1.4 | - |'
    )
    assert len(lines) == 4
    assert results.draw_curves(tmp_path, 'a', tmp_path / 'curves')
    assert (tmp_path / 'curves.png').stat().st_size > 5000
    assert not results.draw_curves(tmp_path, 'b', tmp_path / 'none')
    assert not (tmp_path / 'none.png').exists()


def test_ratios_of_a_checkpoint(tmp_path):
    state = {
        'a.mean_weight': torch.tensor([1.0, 1.0, 1.0]),
        'a.var_weight': torch.tensor([0.0, 0.0, 20.0]),
        'b.mean_weight': torch.tensor([20.0, 0.0, 0.0]),
        'b.var_weight': torch.tensor([0.0, 0.0, 20.0]),
    }
    torch.save(dict(state_dict=state), tmp_path / 'last.pth')
    means = results.summary(results.ratios(tmp_path / 'last.pth'))
    assert means == pytest.approx([2 / 3, 1 / 6, 1 / 6, 0, 0, 1], abs=1e-6)
    torch.save(dict(state_dict={}), tmp_path / 'bn.pth')
    assert results.ratios(tmp_path / 'bn.pth') is None


def test_ratios_before_and_after(tmp_path):
    def saved(path, logits):
        state = {
            f'{name}.{moment}_weight': torch.tensor(logits)
            for name in 'ab'
            for moment in ('mean', 'var')
        }
        torch.save(dict(state_dict=state), path)

    assert not results.draw_ratios(tmp_path, 'a', tmp_path / 'none')
    run, start = Run('a', 'sn-equal', 0), tmp_path / 'start.pth'
    finished(tmp_path, run, [40])
    folder = tmp_path / run.name
    text = config_text(run, start, tmp_path, 'train.json')
    (folder / 'config.py').write_text(text)
    saved(start, [1.0, 1.0, 1.0])
    saved(folder / 'epoch_4.pth', [0.0, 0.0, 20.0])
    before, after = results.ratios_of(tmp_path, run)
    torch.testing.assert_close(before, [[1 / 3] * 6] * 2)
    torch.testing.assert_close(
        after, [[0.0, 0.0, 1.0] * 2] * 2, atol=1e-6, rtol=0
    )
    assert results.draw_ratios(tmp_path, 'a', tmp_path / 'ratios')
    assert (tmp_path / 'ratios.png').stat().st_size > 5000
