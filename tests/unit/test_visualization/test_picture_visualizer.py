# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Pictures of predictions: what is where in them, in which colour."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from sn_mm.visualization import PictureVisualizer

RED, BLUE = (230, 25, 75), (0, 130, 200)
META = dict(classes=('red one', 'blue one'), palette=[RED, BLUE])
SIZE = (40, 60)
SCALE, GAP = 8, 8  # 480 / 60


@pytest.fixture
def visualizer(tmp_path):
    made = VISUALIZERS.build(
        dict(
            type='PictureVisualizer',
            name=f'test {tmp_path}',
            vis_backends=[dict(type='LocalVisBackend')],
            save_dir=str(tmp_path / 'backend'),
        )
    )
    made.dataset_meta = META
    return made


def image():
    return np.full((*SIZE, 3), 128, np.uint8)


def instances(wrapped, **more):
    masks = np.zeros((2, *SIZE), np.uint8)
    masks[0, 12:18, 12:18] = masks[1, 12:18, 42:48] = 1
    wrap = BitmapMasks(masks, *SIZE) if wrapped else torch.from_numpy(masks)
    return InstanceData(
        bboxes=torch.tensor([[10.0, 10, 20, 20], [40.0, 10, 50, 20]]),
        labels=torch.tensor([0, 1]),
        masks=wrap,
        **more,
    )


def drawn(visualizer, sample, tmp_path, **more):
    file = tmp_path / 'pictures/a.png'
    visualizer.add_datasample('a', image(), sample, out_file=str(file), **more)
    picture = cv2.imread(str(file))[..., ::-1]
    np.testing.assert_array_equal(picture, visualizer.get_image())
    return picture


def panels(picture):
    """The two pictures, without captions."""
    height, width = SIZE[0] * SCALE, SIZE[1] * SCALE
    assert picture.shape[1] == 2 * width + GAP
    captions = np.flatnonzero((picture[:, width + 1] != 255).any(-1))
    assert len(captions) == 0  # the gap between them is white
    top = np.flatnonzero((picture[:, 5] == 128).all(-1))[0]
    low = picture[top : top + height]
    return low[:, :width], low[:, width + GAP :]


def has(picture, colour):
    return (picture == colour).all(-1)


def test_detections_in_the_colours_of_their_classes(visualizer, tmp_path):
    scores = torch.tensor([0.9, 0.2])
    sample = BaseDataElement(
        gt_instances=instances(True),
        pred_instances=instances(False, scores=scores),
    )
    truth, prediction = panels(drawn(visualizer, sample, tmp_path))
    for found in (has(truth, RED), has(truth, BLUE), has(prediction, RED)):
        rows, columns = np.nonzero(found)
        assert rows.min() < 10 * SCALE  # the tag, above its box
        assert abs(rows.max() - 20 * SCALE) < 4
    assert not has(prediction, BLUE).any()  # below the threshold
    # the tag says more where there is a score
    widths = [
        np.ptp(np.nonzero(has(p, RED)[: 9 * SCALE])[1])
        for p in (truth, prediction)
    ]
    assert widths[1] > widths[0] > 30
    # between mask and edge of its box nothing is covered
    np.testing.assert_array_equal(truth[11 * SCALE, 15 * SCALE], 128)
    mixed = (np.array(RED) + 128) / 2
    assert np.abs(truth[15 * SCALE, 15 * SCALE] - mixed).max() <= 1


def test_label_maps_with_a_legend(visualizer, tmp_path):
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[:, :, 30:] = 255
    sample = BaseDataElement(
        gt_sem_seg=PixelData(data=labels),
        pred_sem_seg=PixelData(data=torch.ones_like(labels)),
    )
    picture = drawn(visualizer, sample, tmp_path)
    height, width = SIZE[0] * SCALE, SIZE[1] * SCALE
    body = picture[-height - 40 :]
    assert has(picture[-30:], RED).any() and has(picture[-30:], BLUE).any()
    ignored = picture[height // 2, width - 10]
    np.testing.assert_array_equal(ignored, 128)
    mixed = (np.array(BLUE) + 128) / 2
    assert np.abs(body[height // 2, -10] - mixed).max() <= 1


@pytest.mark.parametrize('draw_gt', [True, False])
def test_one_of_the_two_alone(visualizer, tmp_path, draw_gt):
    sample = BaseDataElement(
        gt_instances=instances(True),
        pred_instances=instances(False, scores=torch.ones(2)),
    )
    more = dict(draw_gt=draw_gt, draw_pred=not draw_gt)
    picture = drawn(visualizer, sample, tmp_path, **more)
    assert picture.shape == (SIZE[0] * SCALE, SIZE[1] * SCALE, 3)


@pytest.mark.parametrize(
    'meta', [None, dict(classes=('x',), palette='random')]
)
def test_unknown_classes_have_colours_and_numbers(visualizer, tmp_path, meta):
    visualizer.dataset_meta = meta
    sample = BaseDataElement(gt_instances=instances(True))
    picture = drawn(visualizer, sample, tmp_path)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 4


def test_nothing_found(visualizer, tmp_path):
    nothing = InstanceData(
        bboxes=torch.zeros(0, 4),
        labels=torch.zeros(0).long(),
        scores=torch.zeros(0),
    )
    for sample in (None, BaseDataElement(pred_instances=nothing)):
        picture = drawn(visualizer, sample, tmp_path)
        assert (picture == 128).all()


def test_backends_get_what_has_no_file(visualizer, tmp_path):
    visualizer.add_datasample('a', image(), None, step=3)
    (file,) = (tmp_path / 'backend').rglob('*.png')
    assert '3' in file.name


def test_large_pictures_keep_their_size():
    visualizer = PictureVisualizer('large')
    large = np.zeros((500, 700, 3), np.uint8)
    visualizer.add_datasample('a', large)
    assert visualizer.get_image().shape == large.shape
