# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Scenes as a COCO instances data set.

Layout, file names and JSON keys are those of COCO 2017 (format: 'Data
format' page of https://cocodataset.org).
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_api

from .images import write_image
from .metainfo import METAINFO
from .outlines import trace_outlines
from .scenes import Instance, Scene

# Image ids of train and val are disjoint, as in COCO. An id follows from the
# index alone, so it does not change with the number of images.
_FIRST_IMAGE_ID = dict(train=1, val=500_001)
_MAX_ANNOTATIONS_PER_IMAGE = 100

# The date is that of this layout, not of the run: runs must not differ.
_INFO = dict(
    description='Handwritten digits on cluttered backgrounds, made by sn_mm',
    url='',
    version='1.0',
    year=2026,
    contributor='sn_mm authors',
    date_created='2026/01/01',
)
_LICENSES = [
    dict(
        id=1,
        name='CC BY 4.0 (digits: E. Alpaydin, C. Kaynak) and CC BY 2.0 '
        '(photos: danielbuechele, vultilion), by way of scikit-learn',
        url='https://creativecommons.org/licenses/by/4.0/',
    )
]


class CocoWriter:
    """Writes one split: ``{split}2017/*.jpg`` and its annotation file.

    Args:
        root (Path): Root of the COCO data set.
        split (str): 'train' or 'val'.
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root = root
        self._split = split
        self._images = []
        self._annotations = []

    @staticmethod
    def paths(split: str, count: int) -> list:
        """Relative paths of the files that ``count`` scenes give."""
        images = [_image_path(split, index) for index in range(count)]
        return [*images, _annotation_path(split)]

    def add(self, index: int, scene: Scene) -> None:
        """Write a scene's picture and keep its annotations."""
        path = self._root / _image_path(self._split, index)
        write_image(path, scene.image, cv2.IMWRITE_JPEG_QUALITY, 95)
        image_id = _FIRST_IMAGE_ID[self._split] + index
        height, width = scene.image.shape[:2]
        self._images.append(
            dict(
                id=image_id,
                file_name=path.name,
                height=height,
                width=width,
                license=1,
                coco_url='',
                flickr_url='',
                date_captured='',
            )
        )
        self._annotations += to_annotations(scene, image_id)

    def finish(self) -> None:
        """Write the annotation file."""
        content = dict(
            info=_INFO,
            licenses=_LICENSES,
            images=self._images,
            annotations=self._annotations,
            categories=[
                dict(id=label + 1, name=name, supercategory='digit')
                for label, name in enumerate(METAINFO['classes'])
            ],
        )
        path = self._root / _annotation_path(self._split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


def to_annotations(scene: Scene, image_id: int) -> list:
    """COCO annotations of a scene; boxes are tight around visible pixels.

    Args:
        scene (Scene): The scene.
        image_id (int): Its image id; annotation ids are derived from it.

    Returns:
        list[dict]: One annotation per instance, crowds included.
    """
    first = image_id * _MAX_ANNOTATIONS_PER_IMAGE
    return [
        dict(
            id=first + number,
            image_id=image_id,
            category_id=instance.label + 1,
            **_geometry(instance),
        )
        for number, instance in enumerate(scene.instances)
    ]


def _geometry(instance: Instance) -> dict:
    rle = mask_api.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
    return dict(
        iscrowd=int(instance.crowd),
        segmentation=_segmentation(instance),
        area=float(mask_api.area(rle)),
        bbox=[float(value) for value in mask_api.toBbox(rle)],
    )


def _segmentation(instance: Instance):
    """Polygons as [[x, y, x, y, ...], ...], or an uncompressed RLE.

    As in COCO, a crowd is an RLE and an object split by what is in front of
    it is several polygons. Polygons have no holes: a digit with a hole, such
    as most zeros, is an RLE too. Both decode to exactly the mask.
    """
    parts, holes = trace_outlines(instance.mask)
    if instance.crowd or holes:
        return _run_lengths(instance.mask)
    return [[float(v) for xy in part for v in xy] for part in parts]


def _run_lengths(mask: np.ndarray) -> dict:
    """Lengths of runs of 0, 1, 0, ..., column by column."""
    flat = mask.ravel(order='F')
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    if flat[0]:  # the first run is of zeros, even if there are none
        counts.insert(0, 0)
    return dict(counts=counts, size=list(mask.shape))


def _image_path(split: str, index: int) -> str:
    return f'{split}2017/{_FIRST_IMAGE_ID[split] + index:012d}.jpg'


def _annotation_path(split: str) -> str:
    return f'annotations/instances_{split}2017.json'
