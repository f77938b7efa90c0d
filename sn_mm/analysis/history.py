# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The ratios of a training run over time, in a file.

One JSON object a line: first the layers, then a record for each time. A line
is written at once, so that a run that dies loses at most its last record.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import MOMENTS, LayerRatios
from sn_mm.utils import write_text

FILE_NAME = 'ratios.jsonl'
_FORMAT = 'sn_mm ratios'
_VERSION = 1
_DIGITS = 5


class HistoryError(ValueError):
    """A history that cannot be used; the message names place and fix."""


@dataclass(frozen=True)
class Record:
    """All layers at one time.

    Attributes:
        iteration: training steps done; None where it is not known.
        epoch: epochs begun, from 0.
        ratios: of every layer.
    """

    iteration: int | None
    epoch: int | None
    ratios: list[LayerRatios]


@dataclass(frozen=True)
class History:
    """Layers and records, oldest first."""

    layers: list[LayerInfo]
    records: list[Record]


class HistoryWriter:
    """Appends to a history file.

    Args:
        path: the file. What a finished or broken run left there is renamed,
            unless the run goes on.
        layers: of the model.
        resumed: iteration that the run goes on from; 0 starts anew.

    Raises:
        HistoryError: the run goes on, but the file is of another model.
    """

    def __init__(
        self, path: Path, layers: list[LayerInfo], resumed: int = 0
    ) -> None:
        self.path = path
        self.last: int | None = None
        head = _dump(
            dict(
                format=_FORMAT,
                version=_VERSION,
                layers=[layer.to_json() for layer in layers],
            )
        )
        kept: list[Record] = []
        if path.exists():
            if resumed:
                kept = _kept(path, layers, resumed)
            else:
                os.replace(path, _free(path))
        lines = [head, *(_record_line(r) for r in kept)]
        write_text(path, ''.join(f'{line}\n' for line in lines))
        if kept:
            self.last = kept[-1].iteration

    def append(self, record: Record) -> None:
        """Write a record, unless there is one of that iteration."""
        if record.iteration == self.last:
            return
        with self.path.open('a') as file:
            file.write(f'{_record_line(record)}\n')
        self.last = record.iteration


def read_history(path: str | Path) -> History:
    """Read a history file.

    A last line that breaks off, as of a run that was killed, is left out
    with a warning.

    Raises:
        HistoryError: if there is no such file, or it is broken elsewhere.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise HistoryError(
            f'{path} not found; add dict(type="RatioHook") to custom_hooks '
            'of the config to have one written'
        )
    text = path.read_text(errors='replace')
    lines = text.splitlines()
    if lines and not text.endswith('\n'):
        warnings.warn(
            f'{path}: the last line breaks off, as of a run that was killed; '
            'it is left out',
            stacklevel=2,
        )
        lines = lines[:-1]
    layers = _read_head(path, lines)
    records = [
        _read_record(path, number, line, layers)
        for number, line in enumerate(lines[1:], 2)
    ]
    _check_order(path, records)
    return History(layers, records)


def _kept(path: Path, layers: list[LayerInfo], resumed: int) -> list[Record]:
    """Records of the run that goes on, up to where it does."""
    old = read_history(path)
    ours = [(layer.name, layer.statistics) for layer in layers]
    theirs = [(layer.name, layer.statistics) for layer in old.layers]
    if ours != theirs:
        raise HistoryError(
            f'{path} is of a model with other SN layers than the one that is '
            'resumed: move the file away, or choose another work_dir'
        )
    return [r for r in old.records if r.iteration <= resumed]


def _free(path: Path) -> Path:
    """A name beside ``path`` that nothing has."""
    number = 1
    while True:
        free = path.with_name(f'{path.stem}.{number}{path.suffix}')
        if not free.exists():
            return free
        number += 1


def _dump(values: dict) -> str:
    return json.dumps(values, separators=(',', ':'))


def _record_line(record: Record) -> str:
    values = dict(iter=record.iteration, epoch=record.epoch)
    for kind in MOMENTS:
        values[kind] = [
            getattr(r, kind).round(_DIGITS).tolist() for r in record.ratios
        ]
    return _dump(values)


def _read_head(path: Path, lines: list[str]) -> list[LayerInfo]:
    if not lines:
        raise HistoryError(f'{path} is empty: delete it')
    try:
        head = json.loads(lines[0])
        known = head['format'] == _FORMAT
    except (json.JSONDecodeError, KeyError, TypeError):
        known = False
    if not known:
        raise HistoryError(
            f'{path} is no history of ratios: its first line lacks '
            f'"format": "{_FORMAT}"; name the file that RatioHook wrote'
        )
    if head.get('version') != _VERSION:
        raise HistoryError(
            f'{path} has version {head.get("version")} of the format, this '
            f'sn_mm reads {_VERSION}: use the sn_mm that wrote it'
        )
    try:
        return [LayerInfo.from_json(layer) for layer in head['layers']]
    except (KeyError, TypeError) as error:
        raise HistoryError(
            f'{path}, line 1: broken description of the layers ({error!r}); '
            'restore the file, or train anew'
        ) from error


def _read_record(
    path: Path, number: int, line: str, layers: list[LayerInfo]
) -> Record:
    try:
        values = json.loads(line)
        parts = [values[kind] for kind in MOMENTS]
        ratios = [
            LayerRatios(
                layer.name,
                layer.statistics,
                *(_matrix(part[i], len(layer.statistics)) for part in parts),
            )
            for i, layer in enumerate(layers)
        ]
        if any(len(part) != len(layers) for part in parts):
            raise ValueError('not one entry for each layer')
        return Record(int(values['iter']), int(values['epoch']), ratios)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise HistoryError(
            f'{path}, line {number} is broken ({error}): delete that line'
        ) from error


def _matrix(values: list, columns: int) -> np.ndarray:
    made = np.asarray(values, dtype=float)
    if made.ndim != 2 or made.shape[1] != columns:
        raise ValueError(f'{columns} ratios expected, shape {made.shape}')
    if not np.isfinite(made).all() or (made < 0).any():
        raise ValueError('ratios must be numbers from 0 to 1')
    return made


def _check_order(path: Path, records: Iterable[Record]) -> None:
    last = -1
    for number, record in enumerate(records, 2):
        if record.iteration <= last:
            raise HistoryError(
                f'{path}, line {number}: iteration {record.iteration} comes '
                f'after {last}; two runs wrote to this file: keep the lines '
                'of one of them'
            )
        last = record.iteration
