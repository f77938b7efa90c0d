# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Scenes as a data set in the layout of Cityscapes.

Files, label ids and instance ids are those of Cityscapes (M. Cordts et al.,
The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016, and
https://www.cityscapes-dataset.com). Each digit is played by the class that
``metainfo.CITYSCAPES_DIGITS`` names.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from .images import write_image
from .metainfo import CITYSCAPES_BACKGROUND, CITYSCAPES_DIGITS
from .outlines import trace_single_polygon
from .scenes import Scene

# Made-up cities; as in Cityscapes, no city is in two splits.
CITIES = dict(
    train=('aldenfurt', 'birkenau', 'castorf', 'dornstadt'),
    val=('eschenrode', 'finkental'),
)

# Every label id of Cityscapes with its train id, 255 being ignored.
LABELS = (
    ('unlabeled', 255),
    ('ego vehicle', 255),
    ('rectification border', 255),
    ('out of roi', 255),
    ('static', 255),
    ('dynamic', 255),
    ('ground', 255),
    ('road', 0),
    ('sidewalk', 1),
    ('parking', 255),
    ('rail track', 255),
    ('building', 2),
    ('wall', 3),
    ('fence', 4),
    ('guard rail', 255),
    ('bridge', 255),
    ('tunnel', 255),
    ('pole', 5),
    ('polegroup', 255),
    ('traffic light', 6),
    ('traffic sign', 7),
    ('vegetation', 8),
    ('terrain', 9),
    ('sky', 10),
    ('person', 11),
    ('rider', 12),
    ('car', 13),
    ('truck', 14),
    ('bus', 15),
    ('caravan', 255),
    ('trailer', 255),
    ('train', 16),
    ('motorcycle', 17),
    ('bicycle', 18),
)
LABEL_IDS = {name: label_id for label_id, (name, _) in enumerate(LABELS)}
_TO_TRAIN_ID = np.array([train_id for _, train_id in LABELS], dtype=np.uint8)

# Classes whose instances are numbered.
THINGS = (
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
)

_SUFFIXES = (
    'gtFine_instanceIds.png',
    'gtFine_labelIds.png',
    'gtFine_labelTrainIds.png',
    'gtFine_polygons.json',
)


class CityscapesWriter:
    """Writes one split: ``leftImg8bit/{split}`` and ``gtFine/{split}``.

    Args:
        root (Path): Root of the Cityscapes data set.
        split (str): 'train' or 'val'.
    """

    def __init__(self, root: Path, split: str) -> None:
        self._root = root
        self._split = split

    @staticmethod
    def paths(split: str, count: int) -> list:
        """Relative paths of the files that ``count`` scenes give."""
        return [
            path
            for index in range(count)
            for path in _paths(split, index).values()
        ]

    def add(self, index: int, scene: Scene) -> None:
        """Write a scene's picture and its label maps."""
        maps = to_label_maps(scene)
        content = {
            'leftImg8bit.png': add_ego_vehicle(scene.image),
            'gtFine_instanceIds.png': maps['instanceIds'],
            'gtFine_labelIds.png': maps['labelIds'],
            'gtFine_labelTrainIds.png': maps['labelTrainIds'],
        }
        paths = _paths(self._split, index)
        for suffix, image in content.items():
            write_image(self._root / paths[suffix], image)
        polygons = json.dumps(to_polygons(scene))
        path = self._root / paths['gtFine_polygons.json']
        path.write_text(polygons)

    def finish(self) -> None:
        """Nothing is left to write: Cityscapes has no index file."""


def to_label_maps(scene: Scene) -> dict:
    """Label maps of a scene.

    A strip at the bottom is the ego vehicle, a thin frame the rectification
    border: both are ignored in training, as in Cityscapes.

    Args:
        scene (Scene): The scene.

    Returns:
        dict[str, np.ndarray]: Maps of shape (H, W): 'labelIds' (uint8),
        'labelTrainIds' (uint8, 255 where ignored) and 'instanceIds'
        (uint16): label id * 1000 + number for each instance of a 'thing'
        class, just the label id for the rest, crowds included.
    """
    size = scene.image.shape[:2]
    labels = np.full(size, LABEL_IDS[CITYSCAPES_BACKGROUND], dtype=np.uint8)
    instances = labels.astype(np.uint16)
    numbers = dict.fromkeys(THINGS, 0)
    for instance in scene.instances:
        name = CITYSCAPES_DIGITS[instance.label]
        labels[instance.mask] = LABEL_IDS[name]
        instances[instance.mask] = LABEL_IDS[name]
        if name in THINGS and not instance.crowd:
            instances[instance.mask] = LABEL_IDS[name] * 1000 + numbers[name]
            numbers[name] += 1
    for name, region in _ignored_regions(size).items():
        labels[region] = instances[region] = LABEL_IDS[name]
    return dict(
        labelIds=labels,
        labelTrainIds=_TO_TRAIN_ID[labels],
        instanceIds=instances,
    )


def to_polygons(scene: Scene) -> dict:
    """Content of a ``gtFine_polygons.json``, from which tools draw label maps.

    Objects are listed back to front with their full outlines, as later ones
    are drawn over earlier ones. A crowd is a 'group' of its class.

    Args:
        scene (Scene): The scene.

    Returns:
        dict: 'imgHeight', 'imgWidth' and 'objects', each with 'label' and
        'polygon'.
    """
    size = scene.image.shape[:2]
    background, *ignored = _fixed_objects(size)
    objects = [background]
    for instance in scene.instances:
        group = 'group' if instance.crowd else ''
        name = CITYSCAPES_DIGITS[instance.label] + group
        polygon = trace_single_polygon(instance.full)
        objects.append(dict(label=name, polygon=polygon))
    objects += ignored
    return dict(imgHeight=size[0], imgWidth=size[1], objects=objects)


def add_ego_vehicle(image: np.ndarray) -> np.ndarray:
    """Show the bonnet of the car in front of the camera.

    Args:
        image (np.ndarray): uint8 RGB (H, W, 3).

    Returns:
        np.ndarray: A copy with the bonnet where the label maps have it.
    """
    size = image.shape[:2]
    bonnet = _ignored_regions(size)['ego vehicle']
    # Dark paint, lighter where it curves towards the sky.
    depth = np.cumsum(bonnet, axis=0) / (_BONNET_HEIGHT * size[0])
    paint = 40 + 90 * np.exp(-4 * depth)
    image = image.copy()
    image[bonnet] = paint[bonnet][:, None].astype(np.uint8)
    return image


_BONNET_HEIGHT = 0.06  # of the height of the picture
_BORDER_WIDTH = 0.0125  # of the short side: 2 of 160 pixels


@lru_cache(maxsize=1)
def _fixed_objects(size: tuple) -> tuple:
    """Polygon objects that all pictures of a size have in common."""
    everywhere = np.ones(size, dtype=bool)
    regions = {CITYSCAPES_BACKGROUND: everywhere, **_ignored_regions(size)}
    return tuple(
        dict(label=name, polygon=trace_single_polygon(mask))
        for name, mask in regions.items()
    )


@lru_cache(maxsize=1)
def _ignored_regions(size: tuple) -> dict:
    """Pixels without a class, by the label that says why."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    # An arc over the bottom: full height in the middle, half at the sides.
    arc = 1 - 0.5 * (2 * x / (width - 1) - 1) ** 2
    bonnet = height - y <= _BONNET_HEIGHT * height * arc
    border = np.ones(size, dtype=bool)
    thick = max(1, round(_BORDER_WIDTH * min(size)))
    border[thick:-thick, thick:-thick] = False
    return {'ego vehicle': bonnet, 'rectification border': border}


def _paths(split: str, index: int) -> dict:
    """Relative paths of one scene's files, by their suffix."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    # Cityscapes annotates the 20th frame, number 19, of each sequence.
    stem = f'{split}/{city}/{city}_{index // len(cities):06d}_000019'
    paths = {suffix: f'gtFine/{stem}_{suffix}' for suffix in _SUFFIXES}
    image = 'leftImg8bit.png'
    return {image: f'leftImg8bit/{stem}_{image}', **paths}
