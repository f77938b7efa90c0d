# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""State dict to state dict, public layout to OpenMMLab's and back."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Callable, Optional

import torch
from torch import Tensor

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .layouts import Layout
from .report import Dropped, Report, Used

_EPS = 1e-5  # of every public network
_PIECE = 1 << 20  # elements that are looked at together
Name = Callable[[str], Optional[str]]
State = Mapping[str, Tensor]
# buffers of public training code that no public code reads
_UNREAD = ('batch_mean', 'batch_var')


# -- how a target is called where it goes --
def full_name(target: str) -> str | None:
    """In a whole detector or segmentor."""
    return None if target.startswith('fc.') else target


def backbone_name(target: str) -> str | None:
    """In the backbone alone."""
    head, _, rest = target.partition('.')
    return rest if head == 'backbone' else None


def mmpretrain_name(target: str) -> str:
    """In mmpretrain's ImageClassifier."""
    return f'head.{target}' if target.startswith('fc.') else target


def torchvision_name(target: str) -> str | None:
    """In torchvision's ResNet built with ``norm_layer=SN``."""
    if target.startswith('fc.'):
        return target
    name = backbone_name(target)
    return name and re.sub(r'\bsn(\d)', r'bn\1', name)


_NAMES: dict[str, Name] = {
    'backbone': backbone_name,
    'model': full_name,
    'mmpretrain': mmpretrain_name,
    'torchvision': torchvision_name,
}
STYLES = ('mmdet', 'mmseg', *_NAMES)


def style_of(to: str, layout: Layout, joined: bool = False) -> str:
    """The style that a user's choice means for a layout.

    'mmdet' and 'mmseg' mean what these toolboxes keep in files: backbones
    ('backbone') without a prefix, detectors and segmentors ('model') whole.

    Args:
        to: one of :data:`STYLES`.
        layout: of the file.
        joined: whether several files make one model.

    Raises:
        CheckpointError: there is no such style.
    """
    if to not in STYLES:
        raise CheckpointError(f'to={to!r}: choose from {", ".join(STYLES)}')
    if to in _NAMES:
        return to
    return 'backbone' if layout.is_backbone and not joined else 'model'


def name_of(style: str) -> Name:
    """How targets are called in a style."""
    return _NAMES[style]


# -- there --
def convert(
    state: State, layout: Layout, name: Name, report: Report
) -> OrderedDict[str, Tensor]:
    """A public state dict under OpenMMLab's names.

    Args:
        state: as in the file; not changed.
        layout: what :func:`.recognize` says of it.
        name: the key of a target, or None to drop it.
        report: filled with what happens to every key.

    Returns:
        Tensors that share memory with ``state`` where nothing moves. Its
        ``_metadata`` tells the SN layers which variance convention the
        weights were trained with.

    Raises:
        CheckpointError: keys are missing, have another shape than the
            layout says, or hold NaN or infinity.
    """
    _check(state, layout)
    out: OrderedDict[str, Tensor] = OrderedDict()
    metadata = {}
    known = set()
    for entry in layout.entries:
        known.add(entry.public)
        if entry.public not in state:
            continue  # optional
        target = name(entry.target)
        if target is None:
            report.dropped.append(
                Dropped(entry.public, _why_dropped(entry.target))
            )
            continue
        out[target] = entry.op.forward(state[entry.public])
        report.used.append(
            Used(entry.public, entry.shape, target, entry.op.name)
        )
        layer, _, leaf = target.rpartition('.')
        if leaf == 'running_mean':
            out[f'{layer}.num_batches_tracked'] = torch.tensor(0)
        elif leaf == 'mean_weight':
            metadata[layer] = dict(
                unbiased=True, eps=_EPS, statistics=layout.norm.statistics
            )
    for key in state:
        if key.rpartition('.')[-1] in _UNREAD:
            report.dropped.append(Dropped(key, 'read by no code'))
        elif key not in known:
            report.unknown.append(key)
    if layout.is_strict and report.unknown:
        raise CheckpointError(
            f'{join_names(report.unknown)} are no keys of {layout}, which has '
            'no others than the released file: not a checkpoint of this '
            'network'
        )
    out._metadata = metadata
    return out


def _why_dropped(target: str) -> str:
    if target.startswith('fc.'):
        return 'ImageNet classifier'
    return f'no {target.split(".")[0]} in the target'


def _check(state: State, layout: Layout) -> None:
    missing = [
        e.public
        for e in layout.entries
        if e.public not in state and not e.optional
    ]
    if missing:
        raise CheckpointError(
            f'{len(missing)} keys of a {layout} are missing: '
            f'{join_names(missing)}: the file is incomplete'
        )
    for entry in layout.entries:
        value = state.get(entry.public)
        if value is None:
            continue
        if tuple(value.shape) != entry.shape:
            raise CheckpointError(
                f'{entry.public} has shape {tuple(value.shape)}, but a '
                f'{layout} has {entry.shape} there: not a checkpoint of this '
                'network'
            )
        check_finite(entry.public, value)


def check_finite(key: str, value: Tensor) -> None:
    """Raise CheckpointError where a weight is NaN or infinite.

    Or where a running variance is negative, whose root is NaN.
    """
    if key.endswith('running_var') and bool((value < 0).any()):
        raise CheckpointError(
            f'{key} is negative in {int((value < 0).sum())} of '
            f'{value.numel()} places (smallest {float(value.min()):.3g}): no '
            'variance is; the file is damaged, or was averaged wrongly'
        )
    # in pieces: files are mapped, and need no room as large as their tensors
    pieces = value.reshape(-1).split(_PIECE)
    bad = sum(int((~torch.isfinite(p)).sum()) for p in pieces)
    if bad:
        raise CheckpointError(
            f'{key} holds NaN or infinity in {bad} of {value.numel()} places: '
            'training diverged, or the file is damaged'
        )


# -- and back --
def leftovers(state: State, layout: Layout, name: Name) -> dict[str, Tensor]:
    """What :func:`convert` drops, by public key: the way back needs it."""
    kept = {}
    for entry in layout.entries:
        value = state.get(entry.public)
        if value is None:
            continue
        rest = (
            value if name(entry.target) is None else entry.op.leftover(value)
        )
        if rest is not None:
            kept[entry.public] = rest
    return kept


def restore(
    state: State,
    layout: Layout,
    name: Name,
    kept: Mapping[str, Tensor],
    report: Report,
) -> OrderedDict[str, Tensor]:
    """The public state dict that ``state`` was converted from.

    Args:
        state: under OpenMMLab's names.
        layout, name: of the conversion.
        kept: :func:`leftovers` of the conversion. Background rows that are
            not there become zeros.
        report: filled with what happens to every key.

    Raises:
        CheckpointError: tensors are missing or have another shape.
    """
    out: OrderedDict[str, Tensor] = OrderedDict()
    used = set()
    for entry in layout.entries:
        source = name(entry.target)
        if source is None:
            if entry.public not in kept and entry.optional:
                continue
            if entry.public not in kept:
                raise CheckpointError(
                    f'{entry.public} cannot be restored: '
                    'the file does not hold it'
                )
            out[entry.public] = kept[entry.public]
            continue
        if source not in state and entry.optional:
            continue
        if source not in state:
            raise CheckpointError(
                f'{source} is missing, which becomes '
                f'{entry.public} of a {layout}'
            )
        value = state[source]
        wanted = entry.op.shape(entry.shape)
        if tuple(value.shape) != wanted:
            raise CheckpointError(
                f'{source} has shape {tuple(value.shape)}, '
                f'a {layout} has {wanted} there'
            )
        check_finite(source, value)
        used.add(source)
        out[entry.public] = entry.op.inverse(
            value, entry.shape, kept.get(entry.public)
        )
        report.used.append(
            Used(source, wanted, entry.public, f'undo: {entry.op.name}')
        )
    for key in state:
        if key in used:
            continue
        if key.endswith('.num_batches_tracked'):
            report.dropped.append(Dropped(key, 'not in the public layout'))
        else:
            report.unknown.append(key)
    return out
