# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Cityscapes and ADE20K: scores known beforehand, and test servers' files."""

import cv2
import numpy as np
import pytest
from mmseg.datasets import ADE20KDataset, CityscapesDataset

from sn_mm.patches import numpy_in1d
from tests.datasets import (
    ADE_SIZE,
    BUILDING,
    CITY_SIZE,
    SKY,
    ade_map,
    city_maps,
    palette,
    write_ade,
    write_cityscapes,
)

from . import models  # noqa: F401  (registers them)
from .conftest import evaluate, load

CITY = 'pspnet/pspnet_r50-d8_sn-*_cityscapes-713x713.py'
ADE = 'pspnet/pspnet_r50-d8_sn-*_ade20k-450x450.py'


def painter(dataset):
    colours = palette(dataset).tolist()
    return dict(
        type='Painter',
        palette=colours,
        data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True),
    )


def cityscapes(folder, fragment=None, lines='', tta=False):
    cfg = load(folder, CITY, fragment, lines)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.scale = (128, 64)  # 2048 x 1024 takes long
    return evaluate(folder, cfg, painter(CityscapesDataset), tta)


def wrong_city():
    """Of the road's 960 pixels 240 are taken for building; of the car's 64,
    32 are; all of the building is right."""
    painted = city_maps()[0]
    painted[16:, :15] = BUILDING[0]  # 16 x 15
    painted[8:16, 8:12] = BUILDING[0]
    return painted


ROAD_IOU = 720 / 960
CAR_IOU = 32 / 64
BUILDING_PIXELS = 32 * 32 - 16  # without the ignored corner
BUILDING_IOU = BUILDING_PIXELS / (BUILDING_PIXELS + 240 + 32)


# -- Cityscapes ----------------------------------------------------------
def test_cityscapes_perfect(folder):
    write_cityscapes(folder)
    scores, _ = cityscapes(folder)
    assert scores == dict(aAcc=100, mIoU=100, mAcc=100)


def test_cityscapes_by_hand(folder):
    write_cityscapes(folder, wrong_city())
    scores, _ = cityscapes(folder)
    want = 100 * np.mean([ROAD_IOU, BUILDING_IOU, CAR_IOU])
    assert scores['mIoU'] == pytest.approx(want, abs=0.006)
    pixels = 960 + 64 + BUILDING_PIXELS
    assert scores['aAcc'] == pytest.approx(
        100 * (1 - (240 + 32) / pixels), abs=0.006
    )
    assert scores['mAcc'] == pytest.approx(
        100 * np.mean([0.75, 1, 0.5]), abs=0.006
    )


def test_cityscapes_at_several_scales(folder):
    write_cityscapes(folder)
    scores, model = cityscapes(folder, tta=True)
    assert scores['mIoU'] == 100
    factors = [height / CITY_SIZE[0] for height, _ in model.module.sizes]
    assert factors == [1, 1.25, 1.5, 1.75]


@pytest.mark.parametrize('painted', [None, wrong_city()])
def test_cityscapes_own_evaluation(folder, painted, capsys):
    pytest.importorskip('cityscapesscripts')
    write_cityscapes(folder, painted)
    scores, _ = cityscapes(
        folder,
        'cityscapes_official',
        'test_evaluator = _base_.official_evaluator\n',
    )
    printed = capsys.readouterr().out
    # one class in each category, so the categories' scores are the classes'
    ious = [1, 1, 1]
    inst = 1
    if painted is not None:
        ious = [ROAD_IOU, BUILDING_IOU, CAR_IOU]
        # the car weighs as much as an average one; nothing else is taken
        # for a car
        inst = 0.5
    assert scores['averageScoreCategories'] == pytest.approx(np.mean(ious))
    assert scores['averageScoreInstCategories'] == pytest.approx(inst)
    assert scores['mIoU'] == pytest.approx(100 * np.mean(ious), abs=0.006)
    # the classes, which mmseg leaves to the table
    assert f'Score Average : {np.mean(ious):.3f}' in printed
    pngs = list((folder / 'work_dirs/cityscapes_official').glob('*.png'))
    assert len(pngs) == 1


def test_cityscapes_own_evaluation_on_any_numpy(monkeypatch):
    """numpy.in1d is what it was, wherever it comes from."""
    in1d = numpy_in1d.in1d
    a = np.arange(6).reshape(2, 3)
    for invert in (False, True):
        got = in1d(a, [1, 4], invert=invert)
        assert got.shape == (6,)
        assert (got == (np.isin(a, [1, 4]).ravel() != invert)).all()
    monkeypatch.delattr(np, 'in1d', raising=False)
    monkeypatch.setattr(numpy_in1d, 'find_spec', lambda name: None)
    assert not numpy_in1d.restore_in1d() and not hasattr(np, 'in1d')
    monkeypatch.setattr(numpy_in1d, 'find_spec', lambda name: name)
    assert numpy_in1d.restore_in1d() and np.in1d is in1d
    assert not numpy_in1d.restore_in1d()
    monkeypatch.undo()


def test_cityscapes_test_server(folder):
    pytest.importorskip('cityscapesscripts')
    write_cityscapes(folder)
    scores, _ = cityscapes(
        folder,
        'cityscapes_official',
        'test_dataloader = _base_.test_server_dataloader\n'
        'test_evaluator = _base_.test_server_evaluator\n',
    )
    assert not scores
    (file,) = (folder / 'work_dirs/cityscapes_test-server').iterdir()
    assert file.name == 'tinytown_000000_000019_leftImg8bit.png'
    written = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    train, labels, _ = city_maps()
    if written.ndim == 3:  # a grey palette
        assert (written == written[..., :1]).all()
        written = written[..., 0]
    known = train != 255
    assert (written[known] == labels[known]).all()


# -- ADE20K --------------------------------------------------------------
def wrong_ade():
    """Of the wall's 512 pixels 128 are taken for sky."""
    painted = ade_map()
    painted[:16, :8] = SKY
    painted[:, 32:] = SKY  # does not count
    return painted


ADE_IOUS = (384 / 512, 512 / (512 + 128))


def ade(folder, fragment=None, lines='', tta=False):
    cfg = load(folder, ADE, fragment, lines)
    return evaluate(folder, cfg, painter(ADE20KDataset), tta)


@pytest.mark.parametrize('tta', [False, True], ids=['single', 'multi'])
@pytest.mark.parametrize('painted', [None, wrong_ade()], ids=['all', 'part'])
def test_ade20k(folder, tta, painted):
    write_ade(folder, painted)
    scores, model = ade(folder, tta=tta)
    want = 100 if painted is None else 100 * np.mean(ADE_IOUS)
    assert scores['mIoU'] == pytest.approx(want, abs=0.006)
    sizes = model.module.sizes if tta else model.sizes
    shorter = [300, 400, 500, 600] if tta else [450]
    assert [min(size) for size in sizes] == shorter
    for height, width in sizes:
        assert width / height == pytest.approx(ADE_SIZE[1] / ADE_SIZE[0], 0.01)


def test_ade20k_test_server(folder):
    write_ade(folder)
    scores, _ = ade(
        folder,
        'ade20k_test-server',
        'test_dataloader = _base_.test_server_dataloader\n'
        'test_evaluator = _base_.test_server_evaluator\n',
    )
    assert not scores
    (file,) = (folder / 'work_dirs/ade20k_test-server').iterdir()
    assert file.name == 'ADE_test_1.png'
    written = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    labels = ade_map()
    assert (written[labels > 0] == labels[labels > 0]).all()
