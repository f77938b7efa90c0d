# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether a config's data sets are there, and whole.

Looked at before anything is built: a data set that is missing, or lacks
pictures, would otherwise end a run after minutes or days, in a traceback out
of a data loader's worker.
"""

from __future__ import annotations

import json
import mmap
import os
import os.path as osp
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .layouts import CITYSCAPES, LAYOUTS, Layout

_DEMO_DATA = 'data/demo'
_MAKE_DEMO_DATA = f'python tools/make_demo_data.py {_DEMO_DATA}'
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"')


class DataError(FileNotFoundError):
    """Data is missing: the message names what, the layout, and its source."""


def check_dataloaders(
    cfg: Mapping[str, Any], keys: Sequence[str] = ('train_dataloader',)
) -> None:
    """Check the local data of some data loaders, and of their evaluators.

    Args:
        cfg: a config; 'val_dataloader' is checked with 'val_evaluator'.
        keys: those that the config lacks are passed over.

    Raises:
        DataError: for a folder, an annotation file, pictures or label maps
            that are missing.
    """
    for key in keys:
        loader = cfg.get(key)
        if not isinstance(loader, Mapping):
            continue  # none, or built by hand
        for dataset in _datasets(loader.get('dataset')):
            check_dataset(dataset, key)
        evaluator = key.replace('_dataloader', '_evaluator')
        _check_evaluator(cfg, key, evaluator)


def check_dataset(dataset: Mapping[str, Any], key: str = 'data set') -> None:
    """Check one data set's config: type, data_root, ann_file, data_prefix.

    Data that is not on a local disk is passed over. Known layouts
    (:data:`.LAYOUTS`) are looked at picture by picture, by name.

    Args:
        dataset: not wrapped.
        key: where it is in the config, for the message.

    Raises:
        DataError: see :func:`check_dataloaders`.
    """
    root = dataset.get('data_root') or ''
    if dataset.get('backend_args') or '://' in root:
        return
    kind = str(dataset.get('type')).rpartition('.')[2]
    layout = LAYOUTS.get(kind)
    found = _missing(dataset, root) or (
        _incomplete(dataset, root, layout) if layout else None
    )
    if found:
        raise DataError(_message(key, found, root, layout))


def _datasets(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The data sets themselves, inside of any wrappers."""
    if not isinstance(dataset, Mapping):
        return
    wrapped = dataset.get('datasets') or [dataset.get('dataset')]
    inner = [d for d in wrapped if isinstance(d, Mapping)]
    if not inner:
        yield dataset
    for d in inner:
        yield from _datasets(d)


def _message(
    key: str, found: str, root: str, layout: Layout | None = None
) -> str:
    text = f'data of {key} not found: {found}'
    if osp.normpath(root or found).startswith(osp.normpath(_DEMO_DATA)):
        return f'{text}; make it: {_MAKE_DEMO_DATA}'
    if layout is None:
        return f'{text}; put the data there, or set data_root in the config'
    return f'{text}; {layout.describe(root)}'


# -- paths ---------------------------------------------------------------
def _missing(dataset: Mapping[str, Any], root: str) -> str | None:
    """The first of a data set's paths that does not exist."""
    paths = [root] if root else []
    ann_file = dataset.get('ann_file')
    if _is_path(ann_file):
        paths.append(osp.join(root, ann_file))
    paths += _folders(dataset, root).values()
    return next((path for path in paths if not osp.exists(path)), None)


def _folders(dataset: Mapping[str, Any], root: str) -> dict[str, str]:
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    paths = {k: v for k, v in prefixes.items() if _is_path(v)}
    folders = {k: osp.join(root, v) for k, v in paths.items()}
    if not folders and dataset.get('split') and root:  # mmpretrain's ImageNet
        folders['img_path'] = osp.join(root, dataset['split'])
    return folders


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and '://' not in value


def _check_evaluator(cfg: Mapping[str, Any], key: str, name: str) -> None:
    metrics = cfg.get(name) or []
    metrics = [metrics] if isinstance(metrics, Mapping) else metrics
    for metric in metrics:
        if not isinstance(metric, Mapping) or metric.get('backend_args'):
            continue
        path = metric.get('ann_file')
        if _is_path(path) and not osp.exists(path):
            # root/annotations/FILE
            root = osp.dirname(osp.dirname(path))
            raise DataError(_message(name, path, root, LAYOUTS['CocoDataset']))
        kind = str(metric.get('type')).rpartition('.')[2]
        if kind == 'CityscapesMetric' and not metric.get('format_only'):
            for dataset in _datasets(cfg[key].get('dataset')):
                _check_label_ids(dataset, name)


# -- pictures ------------------------------------------------------------
def _incomplete(
    dataset: Mapping[str, Any], root: str, layout: Layout
) -> str | None:
    """What a known data set lacks, in words."""
    folders = _folders(dataset, root)
    images = folders.get('img') or folders.get('img_path')
    if not images:
        return None
    ann_file = dataset.get('ann_file')
    if layout.label_suffix:
        if _is_path(ann_file):
            return None  # a list of some pictures, maybe the labelled ones
        labels = folders.get('seg_map_path')
        return _unpaired(dataset, images, labels, layout, root)
    if _is_path(ann_file):
        return _unlisted(osp.join(root, ann_file), images)
    return None if _names(images) else f'{images} is empty'


def _unlisted(ann_file: str, images: str) -> str | None:
    """Pictures that a COCO annotation file lists and the folder lacks."""
    if not ann_file.endswith('.json'):
        return None
    if not osp.getsize(ann_file):
        return f'{ann_file} is empty'
    # No parser: instances_train2017.json, of 450 MB, takes it ten seconds.
    with (
        open(ann_file, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if content[-64:].strip()[-1:] not in (b'}', b']'):
            return f'{ann_file} is truncated: fetch it again'
        listed = {
            json.loads(b'"%s"' % m.group(1))
            for m in _FILE_NAME.finditer(content)
        }
    if not listed:
        return f'{ann_file} lists no pictures'
    present = _names(images)
    lacking = sorted(listed - present)
    return _some_of(lacking, len(listed), 'pictures', images, ann_file)


def _unpaired(
    dataset: Mapping[str, Any],
    images: str,
    labels: str | None,
    layout: Layout,
    root: str,
) -> str | None:
    """Pictures without a label map."""
    suffix = dataset.get('img_suffix', layout.image_suffix)
    label_suffix = dataset.get('seg_map_suffix', layout.label_suffix)
    names = {n for n in _names(images) if n.endswith(suffix)}
    if not names:
        return f'{images} has no *{suffix}'
    if labels is None:
        return None
    present = _names(labels)
    wanted = {n[: -len(suffix)] + label_suffix for n in names}
    lacking = sorted(wanted - present)
    found = _some_of(lacking, len(wanted), 'label maps', labels, images)
    if found and layout.label_fix and len(lacking) == len(wanted):
        fix = layout.label_fix.format(root=root)
        return f'{found}; {fix}'
    return found


def _check_label_ids(dataset: Mapping[str, Any], key: str) -> None:
    """What cityscapesscripts reads besides: labelIds and instanceIds."""
    root = dataset.get('data_root') or ''
    folder = _folders(dataset, root).get('seg_map_path')
    if folder is None:
        return
    names = _names(folder)
    suffix = CITYSCAPES.label_suffix
    stems = {n[: -len(suffix)] for n in names if n.endswith(suffix)}
    for kind in ('_gtFine_labelIds.png', '_gtFine_instanceIds.png'):
        lacking = sorted({s + kind for s in stems} - names)
        found = _some_of(lacking, len(stems), kind[1:], folder, folder)
        if found:
            raise DataError(_message(key, found, root, CITYSCAPES))


def _some_of(
    lacking: Sequence[str], count: int, what: str, folder: str, where: str
) -> str | None:
    if not lacking:
        return None
    return (
        f'{folder} lacks {len(lacking)} of the {count} {what} that '
        f'{where} has, such as {lacking[0]}'
    )


def _names(folder: str) -> set[str]:
    """Paths of all files below a folder, from there on, with '/'."""
    names, pending = set(), ['']
    while pending:
        below = pending.pop()
        with os.scandir(osp.join(folder, below)) as entries:
            for entry in entries:
                name = f'{below}/{entry.name}' if below else entry.name
                if entry.is_dir():
                    pending.append(name)
                else:
                    names.add(name)
    return names
