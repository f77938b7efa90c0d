# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""File to file, in either direction.

A converted file carries in its ``meta`` what the way back needs: layout,
outer entries, and the tensors that OpenMMLab's models have no place for.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .convert import (
    STYLES,
    leftovers,
    name_of,
    restore,
)
from .fill_bn import plain_state, read_bn_file
from .infer import infer_parts
from .joined import convert_files
from .layouts import Layout
from .reader import CheckpointFile
from .report import Dropped, Report
from .sources import named_in_errors, one_path, open_files, parse, recognized

_META = 'sn_mm'
PUBLIC = 'public'
TARGETS = (*STYLES, PUBLIC)


@dataclass
class Conversion:
    """The content of the new file, and the account."""

    content: dict[str, Any]
    report: Report

    @property
    def size(self) -> int:
        """Bytes of the weights, about the size of the file."""
        state = self.content
        for key in ('state_dict', 'model'):
            if isinstance(state.get(key), dict):
                state = state[key]
                break
        return sum(
            t.numel() * t.element_size()
            for t in state.values()
            if isinstance(t, Tensor)
        )


def convert_source(
    source: str, to: str, part: str | None = None, progress: bool = False
) -> Conversion:
    """Convert what a user names, in memory.

    Args:
        source: a file, ``sn://``, ``sn://ENCODER,DECODER`` or ``bn2sn://``.
        to: one of :data:`TARGETS`.
        part: of a segmentor going public: 'encoder' or 'decoder', which are
            two files there.
        progress: show a bar while reading.

    Raises:
        CheckpointError: see :mod:`.reader`, :mod:`.layouts`,
            :mod:`.convert`.
    """
    if to not in TARGETS:
        raise CheckpointError(f'to={to!r}: choose from {", ".join(TARGETS)}')
    parsed = parse(source)
    if to == PUBLIC:
        if len(parsed.names) != 1:
            raise CheckpointError('--to public takes one file')
        file = open_files(parsed.names, progress, of_run=True)[0]
        with named_in_errors(file):
            return _to_public(file, part)
    if parsed.is_bn:
        file = read_bn_file(one_path(parsed), progress)
        report = Report(str(file.path), 'network with BN')
        state = plain_state(file, parsed.options, report)
        return Conversion(dict(meta={}, state_dict=state), report)
    return _from_public(recognized(parsed, progress), to)


def _from_public(
    found: list[tuple[CheckpointFile, Layout]], to: str
) -> Conversion:
    state, styles, reports = convert_files(found, to)
    parts = []
    for (file, layout), style, report in zip(found, styles, reports):
        parts.append(
            dict(
                kind=layout.kind,
                params=layout.params,
                style=style,
                wrapper=file.wrapper,
                plain=file.plain,
                kept=leftovers(file.state, layout, name_of(style)),
            )
        )
        _drop_others(file, report)
    content = dict(meta={_META: dict(parts=parts)}, state_dict=state)
    return Conversion(content, _joined_reports(reports))


def _to_public(file: CheckpointFile, part: str | None) -> Conversion:
    own = file.meta.get(_META)
    _warn_of_biased(file)
    parts = own['parts'] if own else infer_parts(file.state)
    chosen = _choose(parts, part)
    layout = Layout(chosen['kind'], chosen['params'])
    report = Report(str(file.path), f'OpenMMLab names of {layout}')
    state = restore(
        file.state, layout, name_of(chosen['style']), chosen['kept'], report
    )
    for other in parts:
        if other is not chosen:
            _drop_part(other, report)
    _drop_others(file, report)
    wrapper = chosen['wrapper']
    content = (
        state
        if wrapper is None
        else {
            **chosen['plain'],
            wrapper: state,
        }
    )
    return Conversion(content, report)


def _warn_of_biased(file: CheckpointFile) -> None:
    """Public code divides by S - 1, and would compute something else."""
    biased = [
        name
        for name, said in file.metadata.items()
        if isinstance(said, dict) and said.get('unbiased') is False
    ]
    config = file.meta.get('cfg')
    if not biased and isinstance(config, str) and 'unbiased=' not in config:
        biased = [
            key.rpartition('.')[0]
            for key in file.state
            if key.endswith('.mean_weight')
        ]
    if biased:
        warnings.warn(
            f'{file.path} is of a model with the biased instance variance '
            f'(unbiased=False in {join_names(biased, 3)}); the public code '
            'has the unbiased one, and computes something else with these '
            'weights on small maps. Train with unbiased=True in norm_cfg',
            stacklevel=4,
        )


def _choose(parts: list[dict], part: str | None) -> dict:
    if len(parts) == 1:
        return parts[0]
    kinds = {'encoder': 'resnet', 'decoder': 'seg-decoder'}
    if part not in kinds:
        raise CheckpointError(
            'the public layout keeps encoder and decoder in two files: choose '
            'one with --part encoder or --part decoder'
        )
    return next(p for p in parts if p['kind'] == kinds[part])


def _drop_part(part: dict, report: Report) -> None:
    """The other file's keys are no surprise."""
    name = name_of(part['style'])
    others = {
        name(e.target) for e in Layout(part['kind'], part['params']).entries
    }
    report.dropped += [
        Dropped(k, 'of the other file') for k in report.unknown if k in others
    ]
    report.unknown = [k for k in report.unknown if k not in others]


def _drop_others(file: CheckpointFile, report: Report) -> None:
    report.dropped += [Dropped(k, 'not weights') for k in file.dropped]


def _joined_reports(reports: list[Report]) -> Report:
    joined = Report(
        ', '.join(r.source for r in reports),
        ' + '.join(r.layout for r in reports),
    )
    for report in reports:
        joined.used += report.used
        joined.dropped += report.dropped
        joined.unknown += report.unknown
    return joined
