# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Data sets of two or three pictures, in the layouts of the real ones.

Pictures are painted in the colours of classes, so that :class:`Painter`
predicts what is painted: the annotation, or something known to be wrong.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmseg.datasets import ADE20KDataset, CityscapesDataset

from sn_mm.datasets import DataError, DataWarning, check_dataset


# -- what the data check says --------------------------------------------
def warnings_about(config: dict) -> list[str]:
    """The warnings of a check of training data that passes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        check_dataset(config, 'train_dataloader')
    return [
        str(w.message) for w in caught if issubclass(w.category, DataWarning)
    ]


def refusal_of(config: dict) -> str:
    """The one line that a check of training data ends in."""
    with pytest.raises(DataError) as caught:
        check_dataset(config, 'train_dataloader')
    text = str(caught.value)
    assert '\n' not in text
    return text


# -- COCO ----------------------------------------------------------------
COCO_SIZE = (100, 120)
PERSON, BICYCLE = 1, 2  # ids; labels are 0 and 1
# x, y, width, height: of 40 columns each
BOXES = [
    (1, PERSON, (10, 10, 40, 30)),
    (2, PERSON, (5, 20, 40, 60)),
    (2, PERSON, (70, 5, 40, 50)),
    (3, BICYCLE, (30, 30, 40, 40)),
]


def write_coco(root: Path) -> None:
    """``root/data/coco`` with val2017, test2017 and annotations."""
    data = root / 'data/coco'
    height, width = COCO_SIZE
    images = [
        dict(id=i, file_name=f'{i:012}.jpg', height=height, width=width)
        for i in (1, 2, 3)
    ]
    for folder in ('train2017', 'val2017', 'test2017'):
        (data / folder).mkdir(parents=True)
        for image in images:
            file = data / folder / image['file_name']
            cv2.imwrite(str(file), np.full((*COCO_SIZE, 3), 90, np.uint8))
    categories = [
        dict(id=PERSON, name='person'),
        dict(id=BICYCLE, name='bicycle'),
    ]
    annotations = [
        dict(
            id=i,
            image_id=image,
            category_id=category,
            bbox=list(box),
            area=box[2] * box[3],
            iscrowd=0,
            segmentation=[corners(box)],
        )
        for i, (image, category, box) in enumerate(BOXES, 1)
    ]
    whole = dict(images=images, categories=categories, annotations=annotations)
    folder = data / 'annotations'
    folder.mkdir()
    for split in ('train', 'val'):
        (folder / f'instances_{split}2017.json').write_text(json.dumps(whole))
    del whole['annotations']
    (folder / 'image_info_test-dev2017.json').write_text(json.dumps(whole))


def corners(box) -> list:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def to_mask(box) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros(COCO_SIZE, bool)
    mask[y : y + h, x : x + w] = True
    return mask


# -- Cityscapes: road left, building right, a car, and an ignored corner ---
ROAD, BUILDING, CAR, IGNORED = (0, 7), (2, 11), (13, 26), (255, 1)
CITY_SIZE = (32, 64)


def city_maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train ids, label ids and instance ids."""
    train = np.full(CITY_SIZE, ROAD[0], np.uint8)
    labels = np.full(CITY_SIZE, ROAD[1], np.uint8)
    for (train_id, label_id), area in (
        (BUILDING, np.s_[:, 32:]),
        (CAR, np.s_[8:16, 8:16]),
        (IGNORED, np.s_[28:, 60:]),
    ):
        train[area], labels[area] = train_id, label_id
    instances = labels.astype(np.uint16)
    instances[8:16, 8:16] = 26001
    return train, labels, instances


def write_cityscapes(root: Path, painted: np.ndarray | None = None) -> None:
    """``root/data/cityscapes``; val is one picture, ``painted`` (train ids)
    or by default as annotated."""
    data = root / 'data/cityscapes'
    train, labels, instances = city_maps()
    if painted is None:
        painted = train
    image = palette(CityscapesDataset)[np.where(painted == 255, 0, painted)]
    for split in ('train', 'val', 'test'):
        name = 'tinytown/tinytown_000000_000019_'
        pictures = data / 'leftImg8bit' / split
        (pictures / 'tinytown').mkdir(parents=True)
        cv2.imwrite(str(pictures / f'{name}leftImg8bit.png'), image[..., ::-1])
        if split == 'test':
            continue
        maps = data / 'gtFine' / split
        (maps / 'tinytown').mkdir(parents=True)
        for kind, content in (
            ('labelTrainIds', train),
            ('labelIds', labels),
            ('instanceIds', instances),
        ):
            cv2.imwrite(str(maps / f'{name}gtFine_{kind}.png'), content)


# -- ADE20K: wall above, sky below, columns of nothing; in JPEG's blocks ----
WALL, SKY = 1, 3  # as in the files, 0 being nothing; predictions are 0 and 2
ADE_SIZE = (32, 48)


# colours at full resolution, or they run over borders
SHARP = [
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    cv2.IMWRITE_JPEG_QUALITY,
    100,
]


def ade_map() -> np.ndarray:
    labels = np.full(ADE_SIZE, WALL, np.uint8)
    labels[16:] = SKY
    labels[:, 32:] = 0
    return labels


def write_ade(root: Path, painted: np.ndarray | None = None) -> None:
    """``root/data/ade``: the release, and one test picture."""
    data = root / 'data/ade/ADEChallengeData2016'
    labels = ade_map()
    painted = labels if painted is None else painted
    image = palette(ADE20KDataset)[np.maximum(painted, 1) - 1]
    test = root / 'data/ade/release_test/testing'
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (data / kind / split).mkdir(parents=True)
        for folder, name, content in (
            ('images', 'ADE_1.jpg', image[..., ::-1]),
            ('annotations', 'ADE_1.png', labels),
        ):
            file = data / folder / split / name
            cv2.imwrite(str(file), content, SHARP if 'jpg' in name else [])
    test.mkdir(parents=True)
    cv2.imwrite(str(test / 'ADE_test_1.jpg'), image[..., ::-1], SHARP)


def palette(dataset: type) -> np.ndarray:
    return np.array(dataset.METAINFO['palette'], np.uint8)
