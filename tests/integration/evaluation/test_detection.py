# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""COCO's box and mask AP: scores known beforehand, and the server's files."""

import json

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from sn_mm.cli import register_toolbox
from tests.datasets import BOXES, COCO_SIZE, to_mask, write_coco

from . import models  # noqa: F401  (registers them)
from .conftest import evaluate, load

BOX = 'faster_rcnn/faster-rcnn_r*_fpn_sn-all_1x_coco.py'
MASK = 'mask_rcnn/mask-rcnn_r*_fpn_sn-all_2x_coco.py'
PICTURES = (1, 2, 3)


def scores_of(folder, pattern, detections):
    """Scores of (image id, category id, box) under a config's evaluator."""
    cfg = load(folder, pattern)
    with DefaultScope.overwrite_default_scope(register_toolbox(cfg)):
        evaluator = Evaluator(cfg.val_evaluator)
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(dataset) == len(PICTURES)
    evaluator.dataset_meta = dataset.metainfo
    for image in PICTURES:
        evaluator.process([sample_of(image, detections)])
    return evaluator.evaluate(len(PICTURES))


def sample_of(image, detections):
    own = [(c, box) for i, c, box in detections if i == image]
    sample = DetDataSample(metainfo=dict(img_id=image, ori_shape=COCO_SIZE))
    boxes = [(x, y, x + w, y + h) for _, (x, y, w, h) in own]
    masks = np.zeros((len(own), *COCO_SIZE), bool)
    for mask, (_, box) in zip(masks, own):
        mask[:] = to_mask(box)
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).view(-1, 4),
        labels=torch.tensor([c - 1 for c, _ in own], dtype=torch.long),
        scores=torch.linspace(0.9, 0.8, len(own)),
        masks=torch.from_numpy(masks),
    )
    return sample


def aps(scores, kind):
    return tuple(scores[f'coco/{kind}_mAP{end}'] for end in ('', '_50', '_75'))


@pytest.fixture(params=[(BOX, ('bbox',)), (MASK, ('bbox', 'segm'))])
def config(request, folder):
    write_coco(folder)
    return request.param


def test_perfect(folder, config):
    pattern, kinds = config
    scores = scores_of(folder, pattern, BOXES)
    assert {key.split('_')[0] for key in scores} == {
        f'coco/{kind}' for kind in kinds
    }
    for kind in kinds:
        assert aps(scores, kind) == (1, 1, 1)


def test_a_person_overlooked(folder, config):
    """Two of three are found: precision 1 at 67 of COCO's 101 recalls."""
    pattern, kinds = config
    scores = scores_of(folder, pattern, BOXES[1:])
    want = (67 / 101 + 1) / 2
    for kind in kinds:
        assert aps(scores, kind) == pytest.approx((want,) * 3, abs=0.0006)


def test_shifted_by_a_fifth(folder, config):
    """IoU 32 / 48: right at 0.5, 0.55, 0.6 and 0.65, of ten thresholds."""
    pattern, kinds = config
    shifted = [(i, c, (x + 8, *rest)) for i, c, (x, *rest) in BOXES]
    scores = scores_of(folder, pattern, shifted)
    for kind in kinds:
        assert aps(scores, kind) == pytest.approx((0.4, 1, 0), abs=0.0006)


def test_taken_for_the_other_class(folder, config):
    pattern, kinds = config
    scores = scores_of(folder, pattern, [(i, 3 - c, b) for i, c, b in BOXES])
    for kind in kinds:
        assert aps(scores, kind) == (0, 0, 0)


def test_server(folder, config):
    pattern, kinds = config
    cfg = load(
        folder,
        pattern,
        'coco_test-dev',
        'test_dataloader = _base_.test_dev_dataloader\n'
        'test_evaluator = _base_.test_dev_evaluator\n',
    )
    data_preprocessor = dict(type='DetDataPreprocessor')
    model = dict(
        type='Constant',
        masks='segm' in kinds,
        data_preprocessor=data_preprocessor,
    )
    scores, _ = evaluate(folder, cfg, model)
    assert not scores
    out = folder / 'work_dirs/coco_test-dev'
    assert {file.name for file in out.iterdir()} == {
        f'detections.{kind}.json' for kind in kinds
    }
    boxes = json.loads((out / 'detections.bbox.json').read_text())
    assert [entry['image_id'] for entry in boxes] == list(PICTURES)
    for entry in boxes:
        assert entry['bbox'] == [10, 20, 40, 20]
        assert entry['category_id'] == 2 and entry['score'] == 0.75
    if 'segm' in kinds:
        entry = json.loads((out / 'detections.segm.json').read_text())[0]
        mask = coco_mask.decode(entry['segmentation'])
        assert (mask == to_mask((10, 20, 40, 20))).all()
