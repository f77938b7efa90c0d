# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether a config's data sets are there, whole, and what the config means.

Looked at before anything is built: a data set that is missing, or lacks
pictures, would otherwise end a run after minutes or days, in a traceback out
of a data loader's worker, and class names that fit no category in training
that learns nothing.
"""

from __future__ import annotations

import os
import os.path as osp
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .coco_file import BrokenFileError, CocoFile, CocoView, UnusableError
from .data_layouts import CITYSCAPES, LAYOUTS, DataLayout
from .head_classes import mismatched_heads
from .pictures import absent, files_below, some_of, why_absent
from .spec import DatasetSpec, read_spec
from .voc_files import VocView

_DEMO_DATA = 'data/demo'
_MAKE_DEMO_DATA = f'python tools/make_demo_data.py {_DEMO_DATA}'
# of the processes on a machine, as torchrun, slurm and mpirun number them
_LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
# what a class of a user's own may read in another way
_READERS = dict(
    CocoDataset=('load_data_list', 'parse_data_info'),
    XMLDataset=(
        'load_data_list',
        'parse_data_info',
        '_parse_instance_info',
        'filter_data',
    ),
)


class DataError(FileNotFoundError):
    """Data is missing or cannot be trained with; names what, and the fix."""


class DataWarning(UserWarning):
    """Data trains otherwise than its config seems to mean."""


def check_dataloaders(
    cfg: Mapping[str, Any], keys: Sequence[str] = ('train_dataloader',)
) -> None:
    """Check the local data of some data loaders, and of their evaluators.

    Args:
        cfg: a config, of strings or in pure Python; 'val_dataloader' is
            checked with 'val_evaluator'.
        keys: those that the config lacks are passed over.

    Raises:
        DataError: for a folder, an annotation file, pictures or label maps
            that are missing, and for data that no training can use.

    Warns:
        DataWarning: see :func:`check_dataset`; and for heads of a detector
            with another number of classes than its training data.
    """
    for key in keys:
        loader = cfg.get(key)
        if not isinstance(loader, Mapping):
            continue  # none, or built by hand
        scope = cfg.get('default_scope')
        specs = []
        for dataset in _datasets(loader.get('dataset')):
            specs.append(read_spec(dataset, scope))
            check_dataset(dataset, key, scope)
        if key == 'train_dataloader':
            _check_heads(cfg, key, specs)
        evaluator = key.replace('_dataloader', '_evaluator')
        _check_evaluator(cfg.get(evaluator), evaluator, key, specs)


def check_dataset(
    dataset: Mapping[str, Any],
    key: str = 'data set',
    scope: str | None = None,
) -> None:
    """Check one data set's config: type, data_root, ann_file, data_prefix.

    Data that is not on a local disk is passed over. Pictures are looked for
    by name, as the data set's class would open them: mmdet's CocoDataset,
    XMLDataset (VOC) and classes that read files as they do, mmseg's data sets
    with a label map for each picture, and the paper's own (:data:`.LAYOUTS`).
    Contents are looked at in the first process of a machine alone.

    Args:
        dataset: not wrapped.
        key: where it is in the config, for the message.
        scope: the toolbox whose registry knows the type.

    Raises:
        DataError: see :func:`check_dataloaders`.

    Warns:
        DataWarning: if training will learn something else than the config
            says: classes and categories that do not meet, boxes outside of
            their pictures, no boxes at all.
    """
    if _is_elsewhere(dataset):
        return
    spec = read_spec(dataset, scope)
    found = _missing(spec)
    if found is None and _is_first_here():
        try:
            found = _incomplete(spec, key)
        except BrokenFileError as error:
            found = str(error)
        except UnusableError as error:
            raise DataError(f'data of {key} cannot train: {error}') from error
    if found:
        raise DataError(_message(key, found, spec))


def _is_elsewhere(dataset: Mapping[str, Any]) -> bool:
    backend = dataset.get('backend_args') or {}
    local = backend.get('backend', 'local') == 'local'
    return not local or '://' in (dataset.get('data_root') or '')


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


def _message(key: str, found: str, spec: DatasetSpec) -> str:
    text = f'data of {key} not found: {found}'
    if osp.normpath(spec.root or found).startswith(osp.normpath(_DEMO_DATA)):
        return f'{text}; make it: {_MAKE_DEMO_DATA}'
    layout = _layout_of(spec)
    if layout is None:
        return f'{text}; put the data there, or set data_root in the config'
    return f'{text}; {layout.describe(spec.root)}'


def _layout_of(spec: DatasetSpec) -> DataLayout | None:
    """The paper's data set that this is; None for a user's own."""
    layout = LAYOUTS.get(spec.kind)
    paths = [spec.ann_file, *spec.folders.values()]
    relative = [osp.relpath(p, spec.root or '.') for p in paths if p]
    if layout is None or spec.own_classes or not layout.is_of(relative):
        return None
    return layout


# -- paths ---------------------------------------------------------------
def _missing(spec: DatasetSpec) -> str | None:
    """The first of a data set's paths that does not exist."""
    paths = [p for p in (spec.ann_file, *spec.folders.values()) if p]
    paths = [p for p in paths if '://' not in p]
    if any(p.startswith(spec.root) for p in paths) or not paths:
        paths.insert(0, spec.root)
    return next((p for p in paths if p and not osp.exists(p)), None)


def _check_evaluator(
    metrics: Any, name: str, key: str, specs: Sequence[DatasetSpec]
) -> None:
    metrics = [metrics] if isinstance(metrics, Mapping) else metrics or []
    for metric in metrics:
        if not isinstance(metric, Mapping) or _is_elsewhere(metric):
            continue
        kind = metric.get('type')
        kind = getattr(kind, '__name__', str(kind).rpartition('.')[2])
        path = metric.get('ann_file')
        if isinstance(path, str) and path and '://' not in path:
            _check_annotation_file(path, name, key, specs)
        if kind == 'CityscapesMetric' and not metric.get('format_only'):
            for spec in specs:
                _check_label_ids(spec, name)


def _check_annotation_file(
    path: str, name: str, key: str, specs: Sequence[DatasetSpec]
) -> None:
    """An evaluator's annotations are those of the data that it scores."""
    files = [spec.ann_file for spec in specs if spec.ann_file]
    if not osp.exists(path):
        # root/annotations/FILE
        root = osp.dirname(osp.dirname(path))
        coco = DatasetSpec('CocoDataset', None, root, path, {})
        text = _message(name, path, coco)
        if len(files) == 1 and osp.isfile(files[0]) and not _layout_of(coco):
            text = (
                f'data of {name} not found: {path}; set ann_file of {name} '
                f'to the file of {key}: {files[0]}'
            )
        raise DataError(text)
    same = any(osp.exists(f) and osp.samefile(f, path) for f in files)
    if files and not same and _is_first_here():
        _warn(
            name,
            f'scores against {path}, and {key} reads {", ".join(files)}; set '
            'both to the same file',
        )


def _check_heads(
    cfg: Mapping[str, Any], key: str, specs: Sequence[DatasetSpec]
) -> None:
    """Warn of a detector's heads that do not fit its data."""
    found = {
        text: None
        for spec in specs
        if spec.derives_from('BaseDetDataset')
        # whose heads have the classes of things alone
        and not spec.derives_from('CocoPanopticDataset')
        and isinstance(spec.classes, (tuple, list))
        for text in mismatched_heads(cfg.get('model'), spec.classes)
    }
    for text in found if _is_first_here() else ():
        _warn(key, text)


def _is_first_here() -> bool:
    """Whether this is the process that looks into files, on its machine.

    Known before process groups are; the launcher ends the other processes if
    this one fails.
    """
    return all(os.environ.get(name, '0') == '0' for name in _LOCAL_RANKS)


def _warn(key: str, text: str) -> None:
    warnings.warn(f'data of {key}: {text}', DataWarning, stacklevel=3)


# -- contents ------------------------------------------------------------
def _incomplete(spec: DatasetSpec, key: str) -> str | None:
    """What a data set lacks, in words."""
    if _is_read_as(spec, 'CocoDataset'):
        return _lacking_of_coco(spec, key) if spec.ann_file else None
    if _is_read_as(spec, 'XMLDataset'):
        return _lacking_of_voc(spec, key) if spec.ann_file else None
    layout = LAYOUTS.get(spec.kind)
    suffixes = (
        spec.image_suffix or getattr(layout, 'image_suffix', ''),
        spec.label_suffix or getattr(layout, 'label_suffix', ''),
    )
    folder = spec.images
    if folder is None or not osp.isdir(folder):
        return None
    if all(suffixes) and 'img_path' in spec.folders:
        return _unpaired(spec, folder, *suffixes)
    if layout is None or osp.isfile(spec.ann_file):
        return None
    some = next(files_below(folder), None)
    return f'{folder} is empty' if some is None else None


def _is_read_as(spec: DatasetSpec, name: str) -> bool:
    """Whether mmdet's class of that name itself reads the files."""
    if not spec.derives_from(name):
        return False
    if spec.cls is None:
        return True
    base = next(b for b in spec.cls.__mro__ if b.__name__ == name)
    return all(
        getattr(spec.cls, reader) is getattr(base, reader, None)
        for reader in _READERS[name]
    )


def _lacking_of_coco(spec: DatasetSpec, key: str) -> str | None:
    view = CocoView(CocoFile.read(spec.ann_file), spec)
    opened = view.opened()
    if not opened:
        raise UnusableError(view.why_nothing_is_left())
    if view.lacks_boxes():
        raise UnusableError(view.why_no_box_is_left())
    masks = view.why_masks_are_lacking()
    if masks:
        raise UnusableError(masks)
    folder = spec.images or ''
    lacking = absent(opened, folder)
    if lacking:
        found = some_of(
            lacking, len(opened), 'pictures', folder, spec.ann_file
        )
        return f'{found}{why_absent(lacking, folder)}'
    for text in view.warnings():
        _warn(key, text)
    return None


def _lacking_of_voc(spec: DatasetSpec, key: str) -> str | None:
    view = VocView(spec)
    found = view.lacking()
    if found is None:
        for text in view.warnings():
            _warn(key, text)
    return found


def _unpaired(
    spec: DatasetSpec, images: str, suffix: str, label_suffix: str
) -> str | None:
    """Pictures without a label map, or listed ones that are missing."""
    where = images
    if osp.isfile(spec.ann_file):
        where = spec.ann_file
        with open(where, encoding='utf-8') as file:
            stems = {line.strip() for line in file if line.strip()}
        lacking = absent((s + suffix for s in stems), images)
        if lacking:
            return some_of(lacking, len(stems), 'pictures', images, where)
    else:
        names = (n for n in files_below(images) if n.endswith(suffix))
        stems = {n[: -len(suffix)] for n in names}
    if not stems:
        return (
            f'{where} lists no pictures'
            if where == spec.ann_file
            else f'{images} has no *{suffix}'
        )
    labels = spec.folders.get('seg_map_path')
    if labels is None:
        return None
    lacking = absent((s + label_suffix for s in stems), labels)
    found = some_of(lacking, len(stems), 'label maps', labels, where)
    layout = _layout_of(spec)
    if found and layout and layout.label_fix and len(lacking) == len(stems):
        return f'{found}; {layout.label_fix.format(root=spec.root)}'
    return found


def _check_label_ids(spec: DatasetSpec, key: str) -> None:
    """What cityscapesscripts reads besides: labelIds and instanceIds."""
    folder = spec.folders.get('seg_map_path')
    if folder is None or not _is_first_here():
        return
    names = set(files_below(folder))
    suffix = CITYSCAPES.label_suffix
    stems = {n[: -len(suffix)] for n in names if n.endswith(suffix)}
    for kind in ('_gtFine_labelIds.png', '_gtFine_instanceIds.png'):
        lacking = sorted({s + kind for s in stems} - names)
        found = some_of(lacking, len(stems), kind[1:], folder, folder)
        if found:
            raise DataError(_message(key, found, spec))
