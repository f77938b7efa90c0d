# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``tools/test.py CONFIG sn://FILE``, ours and mmdet's own."""

import contextlib
import json
import runpy
import sys
from pathlib import Path

import cv2
import mmdet
import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from tests.paths import ROOT
from tests.public.released_configs import RELEASED

TOOLS = {
    'ours': ROOT / 'tools' / 'test.py',
    'mmdet': Path(mmdet.__file__).parent / '.mim' / 'tools' / 'test.py',
}


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """val2017 of one picture with one person."""
    root = tmp_path_factory.mktemp('coco')
    (root / 'val2017').mkdir()
    (root / 'annotations').mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    cv2.imwrite(str(root / 'val2017' / '1.jpg'), pixels)
    box = [10, 12, 30, 40]
    content = dict(
        images=[dict(id=1, file_name='1.jpg', height=64, width=96)],
        annotations=[
            dict(
                id=1,
                image_id=1,
                category_id=1,
                bbox=box,
                area=1200,
                iscrowd=0,
            )
        ],
        categories=[
            dict(id=i, name=name)
            for i, name in enumerate(CocoDataset.METAINFO['classes'], 1)
        ],
    )
    path = root / 'annotations' / 'instances_val2017.json'
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize('tool', TOOLS)
def test_evaluation(released, coco, tmp_path, monkeypatch, tool):
    _, path = released('detectron_faster_rcnn_r50_fpn_sn_nobn')
    config = RELEASED / 'faster-rcnn_r50_fpn_sn-nobn_2x_coco.py'
    loader = 'test_dataloader'
    annotations = coco / 'annotations' / 'instances_val2017.json'
    arguments = [
        TOOLS[tool],
        config,
        f'sn://{path}',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        f'experiment_name=released_{tool}',
        f'{loader}.num_workers=0',
        f'{loader}.persistent_workers=False',
        f'{loader}.dataset.data_root={coco}/',
        f'{loader}.dataset.pipeline.1.scale=(96,64)',
        f'test_evaluator.ann_file={annotations}',
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
    with contextlib.suppress(SystemExit):  # ours ends so; the log tells how
        runpy.run_path(str(TOOLS[tool]), run_name='__main__')
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    assert 'coco/bbox_mAP:' in text
    assert '319 tensors used' in text and 'NOT FILLED' not in text
