# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Loading a public checkpoint, reporting every tensor that is not used."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Union

from torch import Tensor, nn

from sn_mm.anatomy.starts import note_start
from sn_mm.utils import join_names, unwrapped
from sn_mm.utils.errors import CheckpointError

from .contradictions import contradictions
from .convert import (
    Name,
    backbone_name,
    convert,
    full_name,
    mmpretrain_name,
    torchvision_name,
)
from .fill_bn import BNFile, bn_state, finish, read_bn_file
from .layouts import Layout
from .reader import CheckpointFile
from .report import Dropped, Report, log_report
from .sources import (
    BN,
    SN,
    Source,
    named_in_errors,
    one_path,
    parse,
    recognized,
)

Opened = Union[list[tuple[CheckpointFile, Layout]], BNFile]


def load_pretrained(
    model: nn.Module, checkpoint: str, prefix: str | None = None
) -> Report:
    """Fill a model from a public SN checkpoint, or from a BN one.

    The layout is recognised from the file's keys, the names from the
    model's: a detector, a segmentor, a backbone or another part alone,
    mmpretrain's classifier, or torchvision's ResNet with SN layers.

    Args:
        model: built, with the norm that the file was trained with.
        checkpoint: path, published file name, ``sn://FILE``,
            ``sn://ENCODER,DECODER`` or ``bn2sn://ANY[?ratios=bn]``.
        prefix: take only the part of the file with this name in the full
            model, such as 'neck'.

    Returns:
        The account; it is logged as well, as a warning where the model has
        tensors that the file does not fill or the file unknown keys.

    Raises:
        CheckpointError: the file cannot be used, or contradicts the model;
            the model is unchanged.
    """
    source = parse(checkpoint)
    return fill_model(model, source, open_source(source), prefix)


def read_bn_state(
    model: nn.Module, checkpoint: str, prefix: str | None = None
) -> OrderedDict[str, Tensor]:
    """State of a model out of a file of a network with BN, of any layout.

    The model is only looked at. With BN of its own it gets the file's, folded
    ones too; other norms start from them, as with ``bn2sn://``.

    Args:
        model: that the state is for.
        checkpoint: with or without ``bn2sn://`` in front.
        prefix: see :func:`load_pretrained`.

    Returns:
        What the file fills, by the model's names.

    Raises:
        CheckpointError: see :func:`load_pretrained`.
    """
    text = os.fspath(checkpoint)
    source = parse(text)
    if not source.is_bn:
        source = parse(BN + text)
    file = open_source(source)
    with named_in_errors(file):
        report = Report(source.names[0], 'network with BN')
        own = unwrapped(model)
        return bn_state(own, file, source.options, prefix, report)


def open_source(source: Source) -> Opened:
    """Read the files of a source; public ones with their layouts."""
    if source.is_bn:
        return read_bn_file(one_path(source))
    return recognized(source)


def fill_model(
    model: nn.Module,
    source: Source,
    opened: Opened,
    prefix: str | None = None,
) -> Report:
    """:func:`load_pretrained` from files that are read already."""
    model = unwrapped(model)
    if isinstance(opened, BNFile):
        return _fill_from_bn(model, source, opened, prefix)
    report = Report(', '.join(source.names), '')
    state = _from_public(model, opened, prefix, report)
    own = model.state_dict()
    _drop_other_classifier(state, own, report)
    _check_shapes(state, own)
    report.missing = [k for k in own if k not in state]
    half = [
        k
        for k in _half_filled(report.missing, state)
        if not k.startswith(('fc.', 'head.fc.'))
    ]
    if half:
        raise CheckpointError(
            f'{report.source} ({report.layout}) fills {_groups(half)} of the '
            f'model only in part; it has no {join_names(half)}: the model is '
            'of another depth or design than the file'
        )
    model.load_state_dict(state, strict=False)
    for name, layer in model.named_modules():
        if f'{name}.mean_weight' in state:
            note_start(layer, f'{SN}{report.source}')
    log_report(report)
    return report


def _fill_from_bn(
    model: nn.Module, source: Source, file: BNFile, prefix: str | None
) -> Report:
    report = Report(source.scheme + source.names[0], 'network with BN')
    with named_in_errors(file):
        state = bn_state(model, file, source.options, prefix, report)
    report.missing = [k for k in model.state_dict() if k not in state]
    model.load_state_dict(state, strict=False)
    finish(model, report)
    log_report(report)
    return report


# -- public SN files --
def _from_public(
    model: nn.Module,
    opened: list[tuple[CheckpointFile, Layout]],
    prefix: str | None,
    report: Report,
) -> OrderedDict[str, Tensor]:
    own = model.state_dict()
    state: OrderedDict[str, Tensor] = OrderedDict()
    titles = []
    for file, layout in opened:
        with named_in_errors(file):
            name = _present(_fitting_name(layout, own, prefix), own)
            problems = contradictions(model, layout, name)
            if problems:
                raise CheckpointError(
                    f'{layout}: does not fit the model:'
                    + ''.join(f'\n  - {p}' for p in problems)
                )
            state.update(convert(file.state, layout, name, report))
        titles.append(str(layout))
        report.dropped += [Dropped(k, 'not weights') for k in file.dropped]
    report.layout = ' + '.join(titles)
    unplaced = [k for k in state if k not in own]
    if unplaced:
        raise CheckpointError(
            f'{report.source} ({report.layout}) has {join_names(unplaced)}, '
            f'which {_groups(unplaced)} of the model lacks: the model '
            'is of another depth or design than the file'
        )
    return state


def _fitting_name(
    layout: Layout, own: Mapping[str, Tensor], prefix: str | None
) -> Name:
    """Of all ways to name the targets, the one that the model knows best."""
    names = [
        full_name,
        _c4_name,
        backbone_name,
        mmpretrain_name,
        torchvision_name,
    ]
    if prefix is not None:
        names = [_part_name(prefix)]
    targets = [e.target for e in layout.entries]
    hits = [sum(name(t) in own for t in targets) for name in names]
    if not max(hits):
        where = '' if prefix is None else f', prefix={prefix!r}'
        raise CheckpointError(
            f'{layout}: no tensor of the file has a place in the model{where}.'
            f' The file holds {_groups(targets)}, the model {_groups(own)}'
        )
    return names[hits.index(max(hits))]


def _c4_name(target: str) -> str | None:
    """A backbone's last stage as the RoI head of a C4 detector."""
    name = full_name(target)
    return name and re.sub(
        r'^backbone\.layer4\.', 'roi_head.shared_head.layer4.', name
    )


def _part_name(prefix: str) -> Name:
    prefix = prefix.rstrip('.') + '.'

    def name(target: str) -> str | None:
        return target[len(prefix) :] if target.startswith(prefix) else None

    return name


def _present(name: Name, own: Iterable[str]) -> Name:
    """Drop the targets of parts that the model does not have at all."""
    groups = {_group(key) for key in own}

    def present(target: str) -> str | None:
        found = name(target)
        return found if found and _group(found) in groups else None

    return present


def _drop_other_classifier(
    state: OrderedDict[str, Tensor], own: Mapping[str, Tensor], report: Report
) -> None:
    """Finetuning on other classes keeps the model's new classifier."""
    for used in list(report.used):
        key = used.target
        if (
            key.startswith(('fc.', 'head.fc.'))
            and state[key].shape != own[key].shape
        ):
            del state[key]
            report.used.remove(used)
            report.dropped.append(
                Dropped(
                    used.source,
                    f'classifier of {used.shape[0]} classes, '
                    f'the model has {own[key].shape[0]}',
                )
            )


# -- accounts --
def _group(key: str) -> str:
    """The part of a model that a file fills whole or not at all."""
    parts = key.split('.')
    if parts[0] in ('backbone', 'roi_head') and len(parts) > 2:
        return '.'.join(parts[:2])
    return parts[0]


def _groups(keys: Iterable[str]) -> str:
    return join_names(dict.fromkeys(map(_group, keys)), 12)


def _half_filled(missing: Iterable[str], state: Mapping[str, Tensor]):
    filled = {_group(key) for key in state}
    return [key for key in missing if _group(key) in filled]


def _check_shapes(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    wrong = [
        (k, tuple(v.shape), tuple(own[k].shape))
        for k, v in state.items()
        if v.shape != own[k].shape
    ]
    if wrong:
        key, found, wanted = wrong[0]
        more = f' ({len(wrong) - 1} more)' if wrong[1:] else ''
        raise CheckpointError(
            f'{key} has shape {found} in the file and {wanted} in the model'
            f'{more}: set the sizes of the model (num_classes, channels, '
            "anchors) to the file's"
        )
