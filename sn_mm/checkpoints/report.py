# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What became of every key of a file and every tensor of a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

from mmengine.logging import print_log

from sn_mm.utils import join_names, text_table


class Used(NamedTuple):
    """One tensor that found its place."""

    source: str
    shape: tuple[int, ...]
    target: str
    change: str


class Dropped(NamedTuple):
    """One entry of the file that was left out on purpose."""

    source: str
    reason: str


@dataclass
class Report:
    """The account of one conversion or loading.

    Attributes:
        source: the file.
        layout: what it was recognised as.
        used: keys of the file and where they went.
        dropped: keys left out on purpose, and why.
        unknown: keys of the file that nothing knows.
        missing: tensors of the model that the file does not fill.
        said: what else a reader should know, a line each.
        starts: by norm layer of the model, what it starts from.
    """

    source: str
    layout: str
    used: list[Used] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    starts: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Nothing in the file unknown, nothing in the model unfilled."""
        return not self.unknown and not self.missing

    def summary(self) -> str:
        """A few lines."""
        lines = [
            f'{self.source}: {self.layout}',
            f'{len(self.used)} tensors used',
            *self.said,
        ]
        if self.dropped:
            reasons: dict[str, list[str]] = {}
            for key, reason in self.dropped:
                reasons.setdefault(reason, []).append(key)
            lines += [
                f'dropped, {reason}: {join_names(keys)}'
                for reason, keys in reasons.items()
            ]
        problems = self.problems()
        return '\n  '.join(lines + ([problems] if problems else []))

    def problems(self) -> str | None:
        """What is unknown or unfilled; None where nothing is."""
        lines = []
        if self.unknown:
            lines.append(
                'UNKNOWN keys of the file, not used: '
                f'{join_names(self.unknown, 20)}'
            )
        if self.missing:
            lines.append(
                'NOT FILLED by the file, as initialised: '
                f'{join_names(self.missing, 20)}'
            )
        return '\n  '.join(lines) or None

    def table(self) -> str:
        """Every key on a line of its own: source, shape, target, change."""
        rows = [
            (u.source, _size(u.shape), u.target, u.change) for u in self.used
        ]
        rows += [(d.source, '', '(dropped)', d.reason) for d in self.dropped]
        rows += [(key, '', '(unknown)', '') for key in self.unknown]
        head = ('key in the file', 'shape', 'becomes', 'change')
        return text_table(head, rows)


def log_report(report: Report) -> None:
    """The summary to the current log; as a warning where it is incomplete."""
    level = logging.INFO if report.complete else logging.WARNING
    print_log(report.summary(), logger='current', level=level)


def _size(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'
