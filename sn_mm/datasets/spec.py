# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a data set's own class makes of its config, without reading data."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from mmengine.dataset import BaseDataset

_TOOLBOXES = ('mmdet', 'mmseg')


@dataclass(frozen=True)
class DatasetSpec:
    """Where a data set's files are, and what it takes from them.

    Attributes:
        kind: name of the class.
        cls: the class; None if no installed toolbox has it.
        root: ``data_root``.
        ann_file: joined with the root; empty if there is none.
        folders: the prefixes, joined with the root.
        classes: names of the metainfo, in order; None if unknown.
        own_classes: whether the config, and not the class, names them.
        metainfo: as the config has it.
        filter_cfg: see mmengine's BaseDataset, as are the next two.
        indices: see there.
        test_mode: nothing is filtered then.
        image_suffix: of pictures that a folder holds; empty where an
            annotation file names pictures in full.
        label_suffix: of the label maps; empty if there are none.
        config: the data set's.
    """

    kind: str
    cls: type | None
    root: str
    ann_file: str
    folders: Mapping[str, str]
    classes: tuple[str, ...] | str | None = None
    own_classes: bool = False
    metainfo: Mapping[str, Any] = field(default_factory=dict)
    filter_cfg: Mapping[str, Any] = field(default_factory=dict)
    indices: Any = None
    test_mode: bool = False
    image_suffix: str = ''
    label_suffix: str = ''
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> str | None:
        """The folder of the pictures; None if no prefix names it."""
        return self.folders.get('img', self.folders.get('img_path'))

    @property
    def loads_masks(self) -> bool:
        """Whether a step of the pipeline asks for a mask of each box."""
        return _asks_for_masks(self.config.get('pipeline'))

    def derives_from(self, name: str) -> bool:
        """Whether the class has a base of this name, or may be it."""
        if self.cls is None:
            return self.kind == name
        return any(base.__name__ == name for base in self.cls.__mro__)


def _asks_for_masks(steps: Any) -> bool:
    if isinstance(steps, Mapping):
        kind = str(getattr(steps.get('type'), '__name__', steps.get('type')))
        is_loading = kind.rpartition('.')[2] == 'LoadAnnotations'
        if is_loading and steps.get('with_mask'):
            return True
        steps = list(steps.values())
    elif not isinstance(steps, (list, tuple)):
        return False
    return any(_asks_for_masks(step) for step in steps)


def read_spec(
    dataset: Mapping[str, Any], scope: str | None = None
) -> DatasetSpec:
    """Ask a data set's class what its config means.

    The class is instantiated with ``lazy_init=True``, which joins paths and
    reads the metainfo but no annotation. A class that does not take that, or
    that is not installed, leaves what the config says.

    Args:
        dataset: the config; ``type`` is a name or, in pure Python configs,
            a class.
        scope: package whose registry has the name, such as 'mmseg'; without
            it mmdet and mmseg are asked.
    """
    cls = _class_of(dataset, scope)
    kind = dataset.get('type')
    kind = cls.__name__ if cls else str(kind).rpartition('.')[2]
    built = _built_lazily(cls, dataset)
    metainfo = dataset.get('metainfo')
    metainfo = metainfo if isinstance(metainfo, Mapping) else {}
    return DatasetSpec(
        kind=kind,
        cls=cls,
        root=dataset.get('data_root') or '',
        metainfo=metainfo,
        own_classes='classes' in metainfo,
        indices=dataset.get('indices'),
        config=dataset,
        **(_of_config(dataset, metainfo) if built is None else _of(built)),
    )


def _class_of(dataset: Mapping[str, Any], scope: str | None) -> type | None:
    kind = dataset.get('type')
    if isinstance(kind, type):
        return kind
    if not isinstance(kind, str):
        return None
    toolboxes = _TOOLBOXES
    if 'img_path' in (dataset.get('data_prefix') or {}):
        toolboxes = toolboxes[::-1]  # mmseg's prefix: both have Cityscapes
    for name in dict.fromkeys((scope, *toolboxes)):
        try:
            registry = import_module(f'{name}.registry').DATASETS
            found = registry.get(kind)
        except Exception:  # not installed, or broken: the run will tell
            continue
        if isinstance(found, type):
            return found
    return None


def _built_lazily(
    cls: type | None, dataset: Mapping[str, Any]
) -> BaseDataset | None:
    if cls is None or not issubclass(cls, BaseDataset):
        return None
    options = copy.deepcopy(dict(dataset))
    for key in ('type', '_scope_'):
        options.pop(key, None)
    options.update(lazy_init=True, pipeline=[])
    try:
        return cls(**options)
    except Exception:  # the run itself will say what is wrong with it
        return None


def _of(built: BaseDataset) -> dict[str, Any]:
    classes = built.metainfo.get('classes')
    text = isinstance(classes, str) or classes is None
    return dict(
        ann_file=built.ann_file or '',
        folders={k: v for k, v in built.data_prefix.items() if v},
        classes=classes if text else tuple(classes),
        filter_cfg=built.filter_cfg or {},
        test_mode=built.test_mode,
        image_suffix=getattr(built, 'img_suffix', ''),
        label_suffix=(
            getattr(built, 'seg_map_suffix', '')
            if hasattr(built, 'img_suffix')
            else ''
        ),
    )


def _of_config(
    dataset: Mapping[str, Any], metainfo: Mapping[str, Any]
) -> dict[str, Any]:
    """The same in mmengine's words, where no class can be asked."""
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    if not prefixes and dataset.get('split') and root:
        prefixes = dict(img_path=dataset['split'])  # mmpretrain's ImageNet
    prefixes = {k: v for k, v in prefixes.items() if isinstance(v, str)}
    ann_file = dataset.get('ann_file')
    ann_file = ann_file if isinstance(ann_file, str) else ''
    classes = metainfo.get('classes')
    listed = isinstance(classes, (list, tuple))
    return dict(
        ann_file=ann_file and osp.join(root, ann_file),
        folders={
            k: osp.join(root, v) for k, v in prefixes.items() if root or v
        },
        classes=tuple(classes) if listed else classes,
        filter_cfg=dataset.get('filter_cfg') or {},
        test_mode=bool(dataset.get('test_mode')),
        image_suffix=dataset.get('img_suffix', ''),
        label_suffix=dataset.get('seg_map_suffix', ''),
    )


def no_list(classes: str) -> str:
    """What to write in place of classes that are one text, in a sentence."""
    return (
        f'classes={classes!r} of metainfo is one text, no list; write '
        f'classes=({classes!r},)'
    )
