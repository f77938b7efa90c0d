# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Label files with all classes' numbers, mapped to the 19 of Cityscapes."""

import cv2
import numpy as np
import pytest
from mmseg.datasets import CityscapesDataset
from mmseg.datasets.transforms import LoadAnnotations

from sn_mm.datasets.gta5 import GTA5Dataset

# cityscapesscripts' table: number of the file, number of the training
PAIRS = {7: 0, 8: 1, 11: 2, 17: 5, 23: 10, 26: 13, 31: 16, 33: 18}
IGNORED = (0, 4, 9, 14, 18, 29, 34)


@pytest.fixture
def dataset(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    labels = np.array([*PAIRS, *IGNORED], np.uint8)[None]
    cv2.imwrite(str(tmp_path / 'labels/00001.png'), labels)
    picture = np.zeros((*labels.shape, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'images/00001.png'), picture)
    return GTA5Dataset(data_root=str(tmp_path), pipeline=[])


def test_classes_are_those_of_cityscapes(dataset):
    assert dataset.metainfo['classes'] == CityscapesDataset.METAINFO['classes']
    assert dataset.metainfo['palette'] == CityscapesDataset.METAINFO['palette']


def test_numbers_are_mapped_on_reading(dataset):
    info = dataset.get_data_info(0)
    assert info['img_path'].endswith('images/00001.png')
    info['seg_fields'] = []
    read = LoadAnnotations()(info)['gt_seg_map'].ravel()
    assert read.tolist() == [*PAIRS.values(), *[255] * len(IGNORED)]
