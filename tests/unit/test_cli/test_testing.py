# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switches of a test run, in each toolbox's own way."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from sn_mm import cli


def config(**more):
    return Config(
        dict(
            default_hooks=dict(visualization=dict(type='Hook')),
            visualizer=dict(),
            **more,
        )
    )


def test_pictures_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    det, seg = config(), config()
    folder = str(tmp_path / 'out')
    assert cli.draw_predictions(det, 'mmdet', show_dir='out') == folder
    assert det.default_hooks.visualization.test_out_dir == folder
    found = cli.draw_predictions(seg, 'mmseg', show_dir='out')
    assert found == f'{folder}/vis_data/vis_image'
    assert seg.visualizer.save_dir == folder
    assert det.default_hooks.visualization.draw
    assert 'show' not in seg.default_hooks.visualization


def test_pictures_on_the_screen():
    cfg = config()
    assert cli.draw_predictions(cfg, 'mmdet', show=True, wait_time=5) is None
    hook = cfg.default_hooks.visualization
    assert hook.draw and hook.show and hook.wait_time == 5
    for hooks in (None, dict(visualization=None)):
        with pytest.raises(cli.LaunchError, match='visualization hook'):
            cli.draw_predictions(Config(dict(default_hooks=hooks)), 'mmdet')


def test_augmentation_that_mmdet_falls_back_to():
    pipeline = [dict(type='Load'), dict(type='Resize'), dict(type='Pack')]
    inner = dict(type='Coco', pipeline=pipeline)
    cfg = config(
        model=dict(type='Net'),
        test_dataloader=dict(dataset=dict(type='Wrapper', dataset=inner)),
    )
    cli.enable_tta(cfg, 'mmdet')
    assert cfg.model.type == 'DetTTAModel' and cfg.model.module.type == 'Net'
    made = cfg.test_dataloader.dataset.pipeline
    assert [t['type'] for t in made] == ['Load', 'Resize', 'TestTimeAug']
    flips, pack = made[-1]['transforms']
    assert [f['prob'] for f in flips] == [1.0, 0.0]
    assert pack[0]['type'] == 'mmdet.PackDetInputs'


def test_augmentation_of_the_configs_own():
    own = dict(
        tta_model=dict(type='SegTTAModel'),
        tta_pipeline=[dict(type='Own')],
    )
    loader = dict(dataset=dict(pipeline=[dict(type='Load')]))
    cfg = config(model=dict(type='Net'), test_dataloader=loader, **own)
    cli.enable_tta(cfg, 'mmseg')
    assert cfg.model == dict(type='SegTTAModel', module=dict(type='Net'))
    assert cfg.test_dataloader.dataset.pipeline == own['tta_pipeline']
    with pytest.raises(cli.LaunchError, match='tta_model and tta_pipeline'):
        cli.enable_tta(config(), 'mmseg')


def test_predictions_in_files():
    det = config(test_evaluator=dict(type='CocoMetric'))
    cli.dump_predictions(det, 'mmdet', 'out.pkl')
    first, dump = det.test_evaluator
    assert first.type == 'CocoMetric'
    assert dump == dict(type='mmdet.DumpDetResults', out_file_path='out.pkl')
    with pytest.raises(cli.LaunchError, match='out.json must end in .pkl'):
        cli.dump_predictions(det, 'mmdet', 'out.json')
    seg = config(test_evaluator=dict(type='IoUMetric'))
    cli.dump_predictions(seg, 'mmseg', 'maps')
    assert seg.test_evaluator.output_dir == 'maps'
    assert seg.test_evaluator.keep_results
    two = config(test_evaluator=[dict(type='IoUMetric')] * 2)
    with pytest.raises(cli.LaunchError, match='the config has 2'):
        cli.dump_predictions(two, 'mmseg', 'maps')
