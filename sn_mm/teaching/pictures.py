# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Pictures without labels: a folder of them, or a config's training set."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, TRANSFORMS

from sn_mm.datasets.pictures import files_below

FEWEST = 8
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
# parts of the names of transforms that read or filter what people labelled
_LABELS = ('Annotation', 'Proposals', 'GtBox', 'Filter')
# most pictures that are measured with, and the share of them
_MOST_HELD_OUT = 16
_SHARE_HELD_OUT = 8


class PicturesError(ValueError):
    """There are no pictures to teach with; the message says why."""


class Pictures:
    """Files, and the pipeline that makes tensors of them.

    Args:
        files: paths, or whatever the pipeline loads from.
        pipeline: transforms, the first of which loads 'img_path'.

    Attributes:
        unreadable: files that could not be loaded, and why.
    """

    def __init__(self, files: Sequence[str], pipeline: Compose) -> None:
        self.files = list(files)
        self.pipeline = pipeline
        self.unreadable: dict[str, str] = {}

    def load(self, index: int) -> dict[str, Any]:
        """A picture, or the next in the list that can be read.

        Raises:
            PicturesError: none can.
        """
        for step in range(len(self.files)):
            place = (index + step) % len(self.files)
            file = self.files[place]
            if file in self.unreadable:
                continue
            try:
                return self._packed(place)
            except Exception as error:  # readers raise whatever they like
                lines = str(error).splitlines() or [type(error).__name__]
                self.unreadable[file] = lines[0]
        raise PicturesError('none of the pictures can be read')

    def check(self) -> None:
        """Raise PicturesError unless enough pictures can be read.

        Reads no more of them than it takes to know.
        """
        readable = 0
        for index, file in enumerate(self.files):
            if file not in self.unreadable:
                before = len(self.unreadable)
                try:
                    self.load(index)
                except PicturesError:
                    break
                readable += len(self.unreadable) == before
            if readable >= FEWEST:
                return
        more = ''
        if self.unreadable:
            file, why = next(iter(self.unreadable.items()))
            more = f'; {len(self.unreadable)} cannot be read ({file}: {why})'
        raise PicturesError(
            f'{readable} of {len(self.files)} pictures can be used, at least '
            f'{FEWEST} are needed{more}'
        )

    def _packed(self, index: int) -> dict[str, Any]:
        packed = self.pipeline(
            dict(
                img_path=self.files[index],
                img_id=index,
                instances=[],
                seg_fields=[],
                reduce_zero_label=False,
            )
        )
        if packed is None:
            raise ValueError('the pipeline gives nothing for it')
        return packed


class PictureBatches(Sequence):
    """Batches in an order of their own: anew in every round, by a seed.

    Args:
        pictures: that are loaded.
        indices: those of them that are used.
        size: pictures of a batch.
        count: batches.
        seed: of the order.
    """

    def __init__(
        self,
        pictures: Pictures,
        indices: Sequence[int],
        size: int,
        count: int,
        seed: int = 0,
    ) -> None:
        self.pictures, self.indices = pictures, list(indices)
        self.size, self.count, self.seed = size, count, seed
        self._round, self._order = -1, self.indices

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, list]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        first = number * self.size
        return _collated(
            [
                self.pictures.load(self._index(first + i))
                for i in range(self.size)
            ]
        )

    def _index(self, place: int) -> int:
        turn, place = divmod(place, len(self.indices))
        if turn != self._round:
            generator = np.random.default_rng([self.seed, turn])
            self._order = generator.permutation(self.indices).tolist()
            self._round = turn
        return self._order[place]


def split(pictures: Pictures) -> tuple[list[int], list[int]]:
    """Indices to teach with, and of every eighth picture to measure with.

    At most 16 are held out, evenly over the list, at least 2.
    """
    count = len(pictures.files)
    held = min(_MOST_HELD_OUT, max(2, count // _SHARE_HELD_OUT))
    chosen = set(np.linspace(0, count - 1, held).round().astype(int).tolist())
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def alone(pictures: Pictures, indices: Sequence[int]) -> Iterator[dict]:
    """Batches of one picture each; unreadable ones are passed over."""
    for index in indices:
        packed = pictures.load(index)
        if pictures.files[index] not in pictures.unreadable:
            yield _collated([packed])


def _collated(packed: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    return {key: [p[key] for p in packed] for key in packed[0]}


# -- where they are --
def in_folder(folder: str) -> list[str]:
    """Pictures below a folder, in the order of their names.

    Raises:
        PicturesError: no such folder, or no picture in it.
    """
    if not os.path.isdir(folder):
        raise PicturesError(f'{folder} is not a folder of pictures')
    found = sorted(
        os.path.join(folder, name)
        for name in files_below(folder)
        if name.lower().endswith(_SUFFIXES)
    )
    if not found:
        raise PicturesError(
            f'{folder} has no picture ({", ".join(_SUFFIXES)})'
        )
    return found


def of_training_set(cfg: Config, scope: str | None) -> list[str]:
    """Paths of the training pictures of a config.

    The data set's class lists them, since a folder may hold those of other
    splits too. It keeps pictures without objects, which it could tell only
    from labels.

    Raises:
        PicturesError: the config has no training set, or it has no files.
    """
    loader = cfg.get('train_dataloader') or {}
    if not loader.get('dataset'):
        raise PicturesError(
            'the config has no train_dataloader: name a folder of pictures'
        )
    found: dict[str, None] = {}
    with DATASETS.switch_scope_and_registry(scope) as datasets:
        for config in _innermost(loader['dataset']):
            try:
                dataset = datasets.build(_without_labels(config))
                dataset.full_init()
            except (OSError, KeyError, TypeError, ValueError) as error:
                raise PicturesError(
                    'the training set of the config cannot be read: '
                    f'{error}; name a folder of pictures instead'
                ) from error
            infos = map(dataset.get_data_info, range(len(dataset)))
            found.update(
                (i['img_path'], None) for i in infos if 'img_path' in i
            )
    if not found:
        raise PicturesError(
            "the config's training set names no files: name a folder of "
            'pictures instead'
        )
    return list(found)


def _innermost(dataset: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Configs of the data sets inside of wrappers that repeat or mix them."""
    inner = dataset.get('dataset') or dataset.get('datasets')
    if inner is None:
        yield dataset
        return
    for one in inner if isinstance(inner, (list, tuple)) else [inner]:
        yield from _innermost(one)


def _without_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """No pipeline, which would load labels, and no filter by labels."""
    config = dict(copy.deepcopy(dataset), pipeline=[])
    if config.get('filter_cfg'):
        config['filter_cfg'] = None
    return config


# -- how they are loaded --
def test_pipeline(cfg: Config, scope: str | None) -> Compose:
    """The pipeline that a config tests with, without what reads labels.

    Raises:
        PicturesError: the config has none.
    """
    transforms = None
    for key in ('test_dataloader', 'val_dataloader'):
        dataset = (cfg.get(key) or {}).get('dataset')
        if dataset and not transforms:
            transforms = next(_innermost(dataset)).get('pipeline')
    transforms = transforms or cfg.get('test_pipeline')
    if not transforms:
        raise PicturesError(
            'the config has no test-time pipeline (test_dataloader, '
            'val_dataloader or test_pipeline)'
        )
    kept = [t for t in transforms if not _reads_labels(t)]
    with TRANSFORMS.switch_scope_and_registry(scope) as registry:
        return Compose([registry.build(copy.deepcopy(t)) for t in kept])


def _reads_labels(transform: Mapping[str, Any]) -> bool:
    kind = transform.get('type')
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    return any(part in name for part in _LABELS)
