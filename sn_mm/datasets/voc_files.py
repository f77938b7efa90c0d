# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""XML annotations of PASCAL VOC's kind, read as mmdet's XMLDataset does.

A list of names, a file of annotations and a picture for each. What they and
the config of a data set together come to: see :mod:`.coco_file`.
"""

from __future__ import annotations

import os.path as osp
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sn_mm.utils import join_names

from .coco_file import BrokenFileError, UnusableError
from .pictures import absent, some_of
from .spec import DatasetSpec, no_list

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_PICTURE, _ANNOTATIONS = '.jpg', '.xml'  # XMLDataset knows no others


@dataclass(frozen=True)
class _Object:
    """A box, in the words of its file; size is (width, height) or None."""

    picture: str
    name: str
    corners: tuple[int, ...]
    size: tuple[int, int] | None

    @property
    def is_empty(self) -> bool:
        left, top, right, bottom = self.corners
        return right <= left or bottom <= top

    @property
    def reaches_out(self) -> bool:
        """By more than what counting from 0 or from 1 makes."""
        if self.size is None:
            return False
        return min(self.corners) < 0 or any(
            corner > size + 1
            for corner, size in zip(self.corners[2:], self.size)
        )


class VocView:
    """The files of a data set, as its config looks at them.

    Args:
        spec: of a data set that XMLDataset itself reads.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self.spec = spec
        root = spec.folders.get('sub_data_root', '')
        folder = spec.config.get
        self._pictures = osp.join(root, folder('img_subdir', 'JPEGImages'))
        self._files = osp.join(root, folder('ann_subdir', 'Annotations'))
        with open(spec.ann_file, encoding='utf-8') as file:
            self._ids = [line.rstrip('\n\r') for line in file]
        self._objects: list[_Object] = []
        self._sizes: dict[str, tuple[int, int] | None] = {}

    def lacking(self) -> str | None:
        """The files that are missing, in words; None if none is."""
        ids = self._ids
        if not ids:
            return f'{self.spec.ann_file} lists no pictures'
        for what, folder, suffix, names in (
            ('annotation files', self._files, _ANNOTATIONS, ids),
            ('pictures', self._pictures, _PICTURE, None),
        ):
            names = self._opened() if names is None else names
            gone = absent((name + suffix for name in names), folder)
            found = some_of(gone, len(names), what, folder, self.spec.ann_file)
            if found:
                return found + self._why(gone[0], folder)
        return None

    def _why(self, name: str, folder: str) -> str:
        stem = name[: -len(_PICTURE)]  # both suffixes are as long
        for suffix in ('.png', '.jpeg', '.JPG', '.JPEG'):
            if osp.isfile(osp.join(folder, stem + suffix)):
                return (
                    f'; {stem}{suffix} is there: {self.spec.kind} opens '
                    f'{_PICTURE} alone'
                )
        if not stem or stem != stem.strip():
            return f'; {self.spec.ann_file} has an empty line, or blanks'
        return ''

    def _opened(self) -> list[str]:
        """Names that are left of the list.

        Raises:
            UnusableError: if none is.
        """
        self._read()
        spec = self.spec
        names = list(self._ids)
        if not spec.test_mode:
            rules = spec.filter_cfg
            if rules.get('filter_empty_gt'):
                marked = {o.picture for o in self._learned()}
                names = [name for name in names if name in marked]
            least = rules.get('min_size', 0)
            names = [
                name
                for name in names
                if min(self._sizes[name] or (least,)) >= least
            ]
        if names:
            return names
        text = (
            f'filter_cfg leaves none of the {len(self._ids)} pictures of '
            f'{spec.ann_file}'
        )
        if not self._objects:
            raise UnusableError(f'{text}: there are no objects')
        if not any(self._learned()):
            raise UnusableError(f'{text}: {self._mismatch()}')
        raise UnusableError(text)

    def _learned(self) -> Iterator[_Object]:
        classes = self.spec.classes or ()
        return (o for o in self._objects if o.name in classes)

    def _read(self) -> None:
        for name in dict.fromkeys(self._ids):
            path = osp.join(self._files, name + _ANNOTATIONS)
            try:
                root = ElementTree.parse(path).getroot()
            except ElementTree.ParseError as error:
                raise BrokenFileError(f'{path} is no XML: {error}') from error
            try:
                self._sizes[name] = size = _size(root)
                for node in root.findall('object'):
                    corners = tuple(
                        int(float(node.find(f'bndbox/{c}').text))
                        for c in _CORNERS
                    )
                    text = node.find('name').text
                    self._objects.append(_Object(name, text, corners, size))
            except (AttributeError, TypeError, ValueError) as error:
                raise UnusableError(
                    f'{path} lacks something: mmdet needs a width and a '
                    'height in size, and of each object a name and '
                    f'{", ".join(_CORNERS)} in bndbox, all numbers'
                ) from error

    def _mismatch(self) -> str:
        names = list(dict.fromkeys(str(o.name) for o in self._objects))
        classes = self.spec.classes or ('(none)',)
        classes = [classes] if isinstance(classes, str) else classes
        whose = 'metainfo' if self.spec.own_classes else self.spec.kind
        return (
            f'the objects are called {join_names(names)}, {whose} has the '
            f'classes {join_names(classes)}; set metainfo=dict(classes='
            f'{tuple(names[:6])!r}{", ..." if len(names) > 6 else ""}) in the '
            f'data set and num_classes={len(names)} in the heads'
        )

    def warnings(self) -> list[str]:
        """What trains otherwise than meant, a sentence each."""
        return [
            f'{self.spec.ann_file}: {text}'
            for text in (*self._about_classes(), *self._about_boxes())
        ]

    def _about_classes(self) -> Iterator[str]:
        classes = self.spec.classes
        if isinstance(classes, str):
            yield no_list(classes)
            return
        counts = Counter(str(o.name) for o in self._objects)
        if not counts.keys() & set(classes or ()):
            yield (
                f'no class is learned: {self._mismatch()}'
                if counts
                else 'no picture has a box to learn from'
            )
            return
        unknown = [c for c in classes if c not in counts]
        if unknown:
            yield (
                f'no object is called {join_names(unknown)}, as metainfo '
                'says: such a class is never learned'
            )
        left_out = [name for name in counts if name not in classes]
        if left_out:
            boxes = sum(counts[name] for name in left_out)
            yield (
                f'metainfo lacks {join_names(left_out)}: their {boxes} boxes '
                'are not learned'
            )

    def _about_boxes(self) -> Iterator[str]:
        for text, found in (
            ('reach out of their pictures', 'reaches_out'),
            ('have no width or no height', 'is_empty'),
        ):
            odd = [o for o in self._objects if getattr(o, found)]
            if odd:
                yield (
                    f'{len(odd)} of {len(self._objects)} boxes {text}, such '
                    f'as {_CORNERS} = {odd[0].corners} in {odd[0].picture}'
                    f'{_in_words(odd[0].size)}'
                )


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    size = root.find('size')
    if size is None:
        return None  # mmdet opens the picture then
    return int(size.find('width').text), int(size.find('height').text)


def _in_words(size: Sequence[int] | None) -> str:
    return '' if size is None else f' of {size[0]} x {size[1]}'
