# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""From a picture to detections, through pipeline and model of the config."""

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

from sn_mm import load_pretrained
from tests.public.detection_reference import detect, mask_logits
from tests.public.released_configs import build

SHORT, LONG, COUNT, THRESHOLD = 96, 150, 25, 0.05


@torch.no_grad()
def run(config, model, image):
    """The config's own test pipeline and model on one image."""
    pipeline = [
        dict(step, type='mmdet.LoadImageFromNDArray')
        if step.type == 'LoadImageFromFile'
        else step
        for step in config.test_pipeline
        if step.type != 'LoadAnnotations'
    ]
    for step in pipeline:
        step.pop('backend_args', None)
        if step['type'] == 'DetectronResize':
            step['scale'] = (LONG, SHORT)
    with DefaultScope.overwrite_default_scope('mmdet'):
        data = Compose(pipeline)(dict(img=image, img_id=0))
        return model.test_step(pseudo_collate([data]))[0].pred_instances


def matching(found, boxes, labels):
    """Index of the found box of each wanted one: same label, nearest."""
    gap = np.abs(found.bboxes.numpy()[None] - boxes[:, None]).max(-1)
    other = found.labels.numpy()[None] != labels[:, None]
    return np.where(other, np.inf, gap).argmin(1)


@pytest.mark.parametrize(
    'layout, name',
    [
        ('faster_rcnn_r50_fpn_sn_nobn', 'faster-rcnn_r50_fpn_sn-nobn'),
        ('mask_rcnn_r50_fpn_sn_nobn', 'mask-rcnn_r50_fpn_sn-nobn'),
    ],
)
def test_detections(released, layout, name):
    original, path = released(f'detectron_{layout}')
    config, model = build(
        f'{name}_2x_coco',
        **{
            'model.test_cfg.rpn.nms_pre': COUNT,
            'model.test_cfg.rpn.max_per_img': COUNT,
            'model.test_cfg.rcnn.score_thr': THRESHOLD,
        },
    )
    load_pretrained(model, str(path))
    image = np.random.default_rng(5).integers(0, 255, (113, 190, 3), np.uint8)
    boxes, scores, labels = detect(
        original, image, SHORT, LONG, COUNT, THRESHOLD
    )
    found = run(config, model, image)
    assert len(found) == len(boxes) > 10
    order = matching(found, boxes, labels)
    assert sorted(order) == list(range(len(boxes)))
    found = found[torch.from_numpy(order)]
    # float32 through RPN and RoIAlign; a wrong convention moves boxes by
    # half a pixel at the least
    assert np.abs(found.scores.numpy() - scores).max() < 1e-3
    assert np.abs(found.bboxes.numpy() - boxes).max() < 0.05
    if 'mask' not in layout:
        return
    logits = mask_logits(original, image, SHORT, LONG, boxes, labels)
    masks = found.masks.numpy()
    assert masks.shape == (len(boxes), 113, 190)
    # Where the box's middle is surely inside or outside, so is the mask.
    middle = logits[:, 13:15, 13:15]
    for mask, box, m in zip(masks, boxes, middle):
        x, y = (box[:2] + box[2:]) / 2
        x, y = int(x - 0.5), int(y - 0.5)
        if bool((m > 0).all()) or bool((m < 0).all()):
            assert mask[y, x] == bool((m > 0).all())


def test_results_are_exclusive_also_without_rescaling(released):
    """A box ends one original pixel after its last one, at any scale."""
    from mmdet.models.roi_heads import StandardRoIHead
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from sn_mm.models.detectron import DetectronRoIHead

    _, model = build('faster-rcnn_r50_fpn_sn-nobn_2x_coco')
    head = model.roi_head
    assert isinstance(head, DetectronRoIHead)
    torch.manual_seed(0)
    meta = dict(
        ori_shape=(48, 64), img_shape=(96, 128), scale_factor=(2.0, 2.0)
    )
    sample = DetDataSample(metainfo=meta)
    features = tuple(
        torch.randn(1, 256, 96 // s, 128 // s) for s in (4, 8, 16, 32, 64 // 2)
    )
    proposal = InstanceData(
        bboxes=torch.tensor([[4.0, 6, 80, 90], [20, 20, 60, 50]])
    )
    head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        inside = StandardRoIHead.predict(
            head, features, [proposal], [sample], rescale=True
        )[0].bboxes
        small = head.predict(features, [proposal], [sample], rescale=True)[
            0
        ].bboxes
        large = head.predict(features, [proposal], [sample], rescale=False)[
            0
        ].bboxes
    one = torch.tensor([0.0, 0, 1, 1])
    assert torch.allclose(small, inside + one)
    assert torch.allclose(large, small * 2, atol=1e-4)
