# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""GTA5 for mmseg: pictures of a game, with the classes of Cityscapes.

Richter et al., "Playing for Data: Ground Truth from Computer Games", ECCV
2016. Its label files hold Cityscapes' numbers of all classes, not those of
the 19 that are trained and evaluated, so that the files are read as they are
and mapped on reading.
"""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset, CityscapesDataset
from mmseg.registry import DATASETS

# by their numbers, from 0
_ALL_CLASSES = (
    'unlabeled',
    'ego vehicle',
    'rectification border',
    'out of roi',
    'static',
    'dynamic',
    'ground',
    'road',
    'sidewalk',
    'parking',
    'rail track',
    'building',
    'wall',
    'fence',
    'guard rail',
    'bridge',
    'tunnel',
    'pole',
    'polegroup',
    'traffic light',
    'traffic sign',
    'vegetation',
    'terrain',
    'sky',
    'person',
    'rider',
    'car',
    'truck',
    'bus',
    'caravan',
    'trailer',
    'train',
    'motorcycle',
    'bicycle',
    'license plate',
)


@DATASETS.register_module()
class GTA5Dataset(BaseSegDataset):
    """GTA5 with Cityscapes' 19 classes, everything else ignored.

    Args:
        data_prefix: ``img_path`` and ``seg_map_path``, 'images' and 'labels'
            as the archives unpack.
        ann_file: file with the names of a split, one a line and without
            suffix; all pictures without it.
        kwargs: of mmseg's ``BaseSegDataset``.
    """

    METAINFO = dict(classes=_ALL_CLASSES)

    def __init__(
        self,
        img_suffix: str = '.png',
        seg_map_suffix: str = '.png',
        metainfo: dict | None = None,
        data_prefix: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            metainfo=metainfo or CityscapesDataset.METAINFO,
            data_prefix=data_prefix
            or dict(img_path='images', seg_map_path='labels'),
            **kwargs,
        )
