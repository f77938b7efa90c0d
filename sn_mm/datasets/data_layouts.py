# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where the paper's data sets come from, and how they lie on the disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class DataLayout:
    """How a data set of the toolboxes lies under its ``data_root``.

    Attributes:
        name: as people call it.
        tree: what is under the root.
        source: where it is obtained, and how it becomes that tree.
        image_suffix, label_suffix: of pictures and label maps; empty where
            an annotation file lists the pictures.
        label_fix: what to do if only the label maps are missing.
        marks: what the paths of its files end with, or the names of its
            folders: a data set without any of them is somebody's own, in a
            class that was written for this one.
    """

    name: str
    tree: tuple[str, ...]
    source: str
    image_suffix: str = ''
    label_suffix: str = ''
    label_fix: str = ''
    marks: tuple[str, ...] = ()

    def is_of(self, paths: Iterable[str]) -> bool:
        """Whether these are paths of this data set, and not of another."""
        parts = {part for p in paths for part in p.split('/')}
        return any(mark in parts for mark in self.marks)

    def describe(self, root: str) -> str:
        """The tree under ``root``, and where it is obtained: one line."""
        return (
            f'{self.name} is expected in {root} as {", ".join(self.tree)}; '
            f'{self.source}; for a copy elsewhere, link it to {root} or set '
            'data_root in the config'
        )


COCO = DataLayout(
    name='COCO 2017',
    tree=(
        'annotations/instances_{train,val}2017.json',
        'train2017/*.jpg (118287)',
        'val2017/*.jpg (5000)',
        'and for the test server annotations/image_info_test-dev2017.json',
        'test2017/*.jpg (40670)',
    ),
    source='obtain it at https://cocodataset.org/#download (2017 Train '
    'images, Val images and Train/Val annotations, unpacked in one folder)',
    marks=(
        'instances_train2017.json',
        'instances_val2017.json',
        'image_info_test-dev2017.json',
        'image_info_test2017.json',
    ),
)
CITYSCAPES = DataLayout(
    name='Cityscapes',
    tree=(
        'leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png',
        'gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png (2975 in train, '
        '500 in val)',
        "and for Cityscapes' own evaluation *_gtFine_labelIds.png and "
        '*_gtFine_instanceIds.png beside them',
    ),
    source='obtain it, after registration, at '
    'https://www.cityscapes-dataset.com/downloads '
    '(leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked in '
    'one folder) and make the labelTrainIds: pip install cityscapesscripts, '
    'then CITYSCAPES_DATASET=FOLDER python -m '
    'cityscapesscripts.preparation.createTrainIdLabelImgs',
    image_suffix='_leftImg8bit.png',
    label_suffix='_gtFine_labelTrainIds.png',
    label_fix='CITYSCAPES_DATASET={root} python -m '
    'cityscapesscripts.preparation.createTrainIdLabelImgs makes them from '
    'the *_gtFine_polygons.json',
    marks=('leftImg8bit', 'gtFine'),
)
ADE20K = DataLayout(
    name='ADE20K (SceneParsing 2016)',
    tree=(
        'images/training/*.jpg (20210)',
        'images/validation/*.jpg (2000)',
        'annotations/{training,validation}/*.png',
    ),
    source='obtain it at http://sceneparsing.csail.mit.edu: '
    'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
    image_suffix='.jpg',
    label_suffix='.png',
    marks=('training', 'validation', 'testing'),
)
IMAGENET = DataLayout(
    name='ImageNet-1K (ILSVRC 2012)',
    tree=(
        'train/CLASS/*.JPEG (1000 folders, 1281167 pictures)',
        'val/CLASS/*.JPEG (50000 pictures)',
    ),
    source='obtain it, after registration, at '
    'https://image-net.org/challenges/LSVRC/2012 (ILSVRC2012_img_train.tar '
    'and ILSVRC2012_img_val.tar, each class in a folder of its own)',
    marks=('train', 'val', 'train.txt', 'val.txt'),
)

# by the data set's type in a config
LAYOUTS = {
    'CocoDataset': COCO,
    'CityscapesDataset': CITYSCAPES,
    'ADE20KDataset': ADE20K,
    'ImageNet': IMAGENET,
}
