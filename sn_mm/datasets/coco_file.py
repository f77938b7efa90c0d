# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""COCO annotation files, read as mmdet's CocoDataset reads them.

What the file and the config of a data set together come to: which pictures
are opened, which boxes are learned, and under which class names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sn_mm.utils import join_names

from .spec import DatasetSpec, no_list

_BOX_FIELDS = ('bbox', 'area')
_ID_FIELDS = ('id', 'image_id', 'category_id')
_IMAGE_FIELDS = ('id', 'file_name', 'height', 'width')
_TOLERANCE = 1.0  # pixels: tools round boxes in many ways
_DROPPED_SHARE = 0.01  # of the boxes: COCO's own sets have fewer


class BrokenFileError(Exception):
    """An annotation file that cannot be read; the message says why."""


class UnusableError(Exception):
    """Data that is there and that no training can use; with the fix."""


@dataclass(frozen=True)
class CocoFile:
    """What an annotation file says.

    Attributes:
        path: of the file.
        images, annotations, categories: as in the file.
        is_labelled: whether the file has a list of annotations at all; test
            sets have none.
    """

    path: str
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    categories: Sequence[Mapping[str, Any]]
    is_labelled: bool

    @classmethod
    def read(cls, path: str) -> CocoFile:
        """Read a file.

        Raises:
            BrokenFileError: if it is empty, cut off, no JSON, or not COCO's.
            UnusableError: if entries lack what mmdet needs of them.
        """
        content = _parsed(path)
        images = content.get('images')
        if not isinstance(images, list):
            raise BrokenFileError(
                f'{path} is no COCO annotation file: it has no list of images'
            )
        if not images:
            raise BrokenFileError(f'{path} lists no pictures')
        annotations = content.get('annotations')
        file = cls(
            path,
            images,
            annotations or [],
            content.get('categories') or [],
            annotations is not None,
        )
        file._check_entries()
        return file

    def _check_entries(self) -> None:
        if not self.categories:
            raise UnusableError(
                f'{self.path} has no categories; add '
                "categories=[dict(id=1, name='NAME'), ...] to it"
            )
        self._check_fields('images', self.images, _IMAGE_FIELDS)
        self._check_fields('annotations', self.annotations, _ID_FIELDS)
        # mmdet does not look into those that are marked so
        counted = [a for a in self.annotations if not a.get('ignore')]
        self._check_fields('annotations', counted, _BOX_FIELDS)
        for a in counted:
            if not _is_box(a['bbox']):
                raise UnusableError(
                    f'{self.path}: the annotation with id {a["id"]} has '
                    f'bbox {a["bbox"]}; COCO boxes are [x, y, width, height]'
                )
        ids = Counter(a['id'] for a in self.annotations)
        twice = [i for i, count in ids.items() if count > 1]
        if twice:
            raise UnusableError(
                f'{self.path} has several annotations with id '
                f'{join_names(map(str, twice), 3)}; number them anew'
            )

    def _check_fields(
        self, name: str, entries: Sequence[Any], fields: Sequence[str]
    ) -> None:
        required = set(fields)
        for number, entry in enumerate(entries):
            known = entry.keys() if isinstance(entry, dict) else set()
            if not required <= known:
                lacking = [f for f in fields if f not in known]
                raise UnusableError(
                    f'{self.path}: {name}[{number}] has no '
                    f'{" and no ".join(lacking)}; mmdet needs '
                    f'{", ".join(fields)} of each'
                )


def _parsed(path: str) -> dict[str, Any]:
    with open(path, 'rb') as file:
        content = file.read()
    if not content.strip():
        raise BrokenFileError(f'{path} is empty')
    if content[-64:].strip()[-1:] not in (b'}', b']'):
        raise BrokenFileError(f'{path} is truncated: fetch it again')
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise BrokenFileError(f'{path} is no JSON: {error}') from error
    if not isinstance(parsed, dict):
        raise BrokenFileError(
            f'{path} is no COCO annotation file: it holds a '
            f'{type(parsed).__name__}'
        )
    return parsed


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, (int, float)) for v in box)
    )


# -- file and config together ----------------------------------------------
class CocoView:
    """An annotation file, as a data set's config looks at it.

    Args:
        file: see :class:`CocoFile`.
        spec: of the data set.

    Attributes:
        learned: the categories that the classes of the config name, in the
            file's order: label i is the i-th of them, whatever the order of
            the classes.
    """

    def __init__(self, file: CocoFile, spec: DatasetSpec) -> None:
        self.file = file
        self.spec = spec
        self.classes = spec.classes
        names = spec.classes
        self.learned = [
            c for c in file.categories if not names or c['name'] in names
        ]
        self._ids = {c['id'] for c in self.learned}
        self._images = {image['id']: image for image in file.images}

    def opened(self) -> list[str]:
        """Names of the pictures that are left, of which each is opened."""
        return [image['file_name'] for image in self._left()]

    def _left(self) -> list[Mapping[str, Any]]:
        images = list(self._images.values())
        rules = self.spec.filter_cfg
        if rules and not self.spec.test_mode:
            if rules.get('filter_empty_gt', False):
                marked = {
                    a['image_id']
                    for a in self.file.annotations
                    if a['category_id'] in self._ids
                }
                images = [image for image in images if image['id'] in marked]
            size = rules.get('min_size', 0)
            images = [
                i for i in images if min(i['width'], i['height']) >= size
            ]
        return _subset(images, self.spec.indices)

    def why_masks_are_lacking(self) -> str | None:
        """Where the pipeline asks for masks that boxes do not have."""
        if not self.spec.loads_masks:
            return None
        left = {image['id'] for image in self._left()}
        learned = [
            a
            for a in self.file.annotations
            if a['image_id'] in left and self._fate(a) == 'learned'
        ]
        without = sum(not a.get('segmentation') for a in learned)
        if not without:
            return None
        return (
            f'{without} of the {len(learned)} boxes of {self.file.path} have '
            'no segmentation, and the pipeline loads masks (LoadAnnotations('
            'with_mask=True)): add it to the file, or train a model without '
            'masks'
        )

    def lacks_boxes(self) -> bool:
        """Whether pictures without boxes are to go, and all are without."""
        rules = {} if self.spec.test_mode else self.spec.filter_cfg
        return bool(rules.get('filter_empty_gt')) and not any(
            self._fate(a) == 'learned' for a in self.file.annotations
        )

    def why_nothing_is_left(self) -> str:
        """For the error where :meth:`opened` is empty."""
        text = (
            f'filter_cfg and indices leave none of the {len(self._images)} '
            f'pictures of {self.file.path}'
        )
        if not self.file.annotations:
            return f'{text}: it has no annotations'
        return text if self.learned else f'{text}: {self._mismatch()}'

    def why_no_box_is_left(self) -> str:
        """For the error where :meth:`lacks_boxes`."""
        if not self.learned:
            return self.why_nothing_is_left()
        return (
            f'{self.file.path} has no box to learn from, and filter_empty_gt '
            f'of filter_cfg drops pictures without: {self._fates()}'
        )

    def _fates(self) -> str:
        fates = Counter(self._fate(a) for a in self.file.annotations)
        why = ', '.join(f'{n} {fate}' for fate, n in fates.items())
        return (
            f'of {len(self.file.annotations)}, {why}'
            if why
            else 'none is in it'
        )

    def warnings(self) -> list[str]:
        """What trains otherwise than meant, a sentence each."""
        if not self.file.is_labelled and self.spec.test_mode:
            return []
        found = [*self._about_classes(), *self._about_boxes()]
        return [f'{self.file.path}: {text}' for text in found]

    # -- classes ------------------------------------------------------------
    def _mismatch(self) -> str:
        """That no class is a category: mmdet's most asked question."""
        names = [str(c['name']) for c in self.file.categories]
        wrong = 'CLASSES' in self.spec.metainfo
        return (
            f'the file has the categories {join_names(names)}, '
            f'{"metainfo" if self.spec.own_classes else self.spec.kind} the '
            f'classes {join_names(_as_names(self.classes))}; set '
            f'metainfo=dict(classes={tuple(names[:6])!r}'
            f'{", with all of them" if len(names) > 6 else ""}) in the data '
            f'set{" (classes, not CLASSES)" if wrong else ""} and '
            f'num_classes={len(names)} in the heads'
        )

    def _about_classes(self) -> list[str]:
        if not self.classes:
            return []
        if isinstance(self.classes, str):
            return [no_list(self.classes)]
        if not self.learned:
            return [f'no class is learned: {self._mismatch()}']
        names = [c['name'] for c in self.learned]
        unknown = [c for c in self.classes if c not in names]
        found = []
        if unknown:
            found.append(
                f'no category is called {join_names(unknown)}, as metainfo '
                'says: such a class is never learned, and the labels of the '
                'classes after it move up'
            )
        elif len(names) == len(self.classes) and names != list(self.classes):
            first = next(
                i for i, n in enumerate(names) if n != self.classes[i]
            )
            found.append(
                f"the file's categories come in another order than "
                f'the classes of metainfo: label {first} is learned from '
                f'{names[first]} and called {self.classes[first]}; write '
                f'classes in the order {join_names(names)}'
            )
        return found + self._about_categories()

    def _about_categories(self) -> list[str]:
        names = {c['id']: c['name'] for c in self.file.categories}
        counts = Counter(a['category_id'] for a in self.file.annotations)
        left_out = [i for i in names if i not in self._ids]
        strange = [i for i in counts if i not in names]
        found = []
        if left_out:
            boxes = sum(counts[i] for i in left_out)
            found.append(
                'metainfo lacks the categories '
                f'{join_names(str(names[i]) for i in left_out)}: their '
                f'{boxes} boxes are not learned'
            )
        if strange:
            boxes = sum(counts[i] for i in strange)
            found.append(
                f'{boxes} boxes are of category ids that no category has '
                f'({join_names(map(repr, strange), 3)}): they are not learned'
            )
        return found

    # -- boxes ----------------------------------------------------------------
    def _about_boxes(self) -> list[str]:
        annotations = self.file.annotations
        fates = Counter(self._fate(a) for a in annotations)
        found = []
        lost = fates['of no picture']
        if lost:
            found.append(
                f'{lost} boxes are of image ids that no picture has: they '
                'are not learned'
            )
        if not fates['learned']:
            found.append(f'no box is left to learn from: {self._fates()}')
        else:
            dropped = fates['outside of the picture'] + fates[_TOO_SMALL]
            if dropped > _DROPPED_SHARE * len(annotations):
                found.append(
                    f'{dropped} of {len(annotations)} boxes are not learned: '
                    f'{fates[_TOO_SMALL]} {_TOO_SMALL}, '
                    f'{fates["outside of the picture"]} outside of the '
                    'picture'
                )
        return found + self._about_sizes()

    def _fate(self, annotation: Mapping[str, Any]) -> str:
        """What becomes of a box, as mmdet's parse_data_info decides."""
        image = self._images.get(annotation['image_id'])
        if image is None:
            return 'of no picture'
        if annotation.get('ignore'):
            return 'marked as ignored'
        x, y, w, h = annotation['bbox']
        inside_x = min(x + w, image['width']) - max(x, 0)
        inside_y = min(y + h, image['height']) - max(y, 0)
        if w < 1 or h < 1 or annotation['area'] <= 0:
            return _TOO_SMALL
        if inside_x <= 0 or inside_y <= 0:
            return 'outside of the picture'
        if annotation['category_id'] not in self._ids:
            return 'of no class'
        return 'learned'

    def _about_sizes(self) -> list[str]:
        """Boxes that reach out of their picture."""
        outside = [
            a
            for a in self.file.annotations
            if not a.get('ignore')
            and a['image_id'] in self._images
            and _reaches_out(a['bbox'], self._images[a['image_id']])
        ]
        if not outside:
            return []
        image = self._images[outside[0]['image_id']]
        text = (
            f'{len(outside)} of {len(self.file.annotations)} boxes reach out '
            f'of their pictures, such as {outside[0]["bbox"]} in '
            f'{image["file_name"]} of {image["width"]} x {image["height"]}'
        )
        corners = [
            a
            for a in outside
            if _could_be_corners(a['bbox'], self._images[a['image_id']])
        ]
        if 2 * len(corners) > len(outside):
            text += (
                '; they may be corners: COCO boxes are [x, y, width, height]'
            )
        return [text]


_TOO_SMALL = 'less than a pixel wide or high, or of area 0'


def _subset(images: list, indices: Any) -> list:
    """As mmengine's BaseDataset takes ``indices``."""
    if indices is None:
        return images
    if isinstance(indices, int):
        return images[:indices] if indices >= 0 else images[indices:]
    return [images[i] for i in indices]


def _as_names(classes: Any) -> Sequence[str]:
    return [classes] if isinstance(classes, str) else (classes or ['(none)'])


def _reaches_out(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    x, y, w, h = box
    return (
        min(x, y) < -_TOLERANCE
        or x + w > image['width'] + _TOLERANCE
        or y + h > image['height'] + _TOLERANCE
    )


def _could_be_corners(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    x1, y1, x2, y2 = box
    return (
        0 <= x1 < x2 <= image['width'] + _TOLERANCE
        and 0 <= y1 < y2 <= image['height'] + _TOLERANCE
    )
