# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One tensor of a public checkpoint: key, shape, where it goes, how.

A layout is a sequence of entries (:mod:`.layouts`), and every conversion in
either direction, every check and every report walks that sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Op:
    """How a tensor changes on its way; ``keep`` and its inverse.

    Attributes:
        name: what tables show.
        kind: 'same'; 'flatten' (drop the axes of length 1); 'roll' (row 0,
            the background, becomes the last); 'tail' (the first ``rows``
            rows, the background's, are left over).
        rows: of 'tail'.
    """

    name: str
    kind: str
    rows: int = 0

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the converted tensor."""
        if self.kind == 'flatten':
            return (shape[1],)
        return (shape[0] - self.rows, *shape[1:]) if self.rows else shape

    def forward(self, value: Tensor) -> Tensor:
        """From the public layout; a view where nothing moves."""
        if self.kind == 'flatten':
            return value.reshape(-1)
        if self.kind == 'roll':
            return torch.cat([value[1:], value[:1]])
        # a copy of the rows: saving a view would save all of its storage
        return value[self.rows :].clone() if self.rows else value

    def leftover(self, value: Tensor) -> Tensor | None:
        """The rows that :meth:`forward` leaves out."""
        return value[: self.rows].clone() if self.rows else None

    def inverse(
        self, value: Tensor, shape: tuple[int, ...], leftover: Tensor | None
    ) -> Tensor:
        """Back to the public layout; zeros where there is no leftover."""
        if self.kind == 'roll':
            return torch.cat([value[-1:], value[:-1]])
        if self.rows:
            if leftover is None:
                leftover = value.new_zeros(self.rows, *value.shape[1:])
            return torch.cat([leftover.to(value), value])
        return value.reshape(shape)


SAME = Op('as it is', 'same')
FLATTEN = Op('to (C,)', 'flatten')
BACKGROUND_LAST = Op('background row last', 'roll')


def without_background(rows: int) -> Op:
    """The op that leaves out the background's leading rows."""
    plural = 's' if rows > 1 else ''
    return Op(f'without background ({rows} row{plural})', 'tail', rows)


@dataclass(frozen=True)
class Entry:
    """One key of a layout.

    Attributes:
        public: key in the public file.
        shape: in the public file.
        target: key in the converted model, with its component in front
            ('backbone.', 'neck.', ...); 'fc.*' is the ImageNet classifier.
        op: what happens to the tensor.
        optional: files of old versions may lack it.
    """

    public: str
    shape: tuple[int, ...]
    target: str
    op: Op = SAME
    optional: bool = False


@dataclass(frozen=True)
class NormKind:
    """What the norm layers of a file hold.

    Attributes:
        ratios: 3 = (in, ln, bn); 2 = (in, ln), then without running
            statistics.
        sparse: SSN: fixed flags and radius too.
    """

    ratios: int = 3
    sparse: bool = False

    @property
    def statistics(self) -> tuple[str, ...]:
        return ('in', 'ln', 'bn')[: self.ratios]

    @property
    def type(self) -> str:
        return 'SSN' if self.sparse else 'SN'


def conv(
    public: str, target: str, *shape: int, bias: bool = False
) -> Iterator[Entry]:
    """A convolution or fully connected layer."""
    yield Entry(f'{public}.weight', shape, f'{target}.weight')
    if bias:
        yield Entry(f'{public}.bias', shape[:1], f'{target}.bias')


def norm(
    public: str, target: str, channels: int, kind: NormKind
) -> Iterator[Entry]:
    """A switchable norm, in the order of the public files."""
    for name in ('weight', 'bias'):
        yield Entry(
            f'{public}.{name}',
            (1, channels, 1, 1),
            f'{target}.{name}',
            FLATTEN,
        )
    for name in ('mean_weight', 'var_weight'):
        yield Entry(f'{public}.{name}', (kind.ratios,), f'{target}.{name}')
    if kind.ratios == 3:
        for name in ('running_mean', 'running_var'):
            yield Entry(
                f'{public}.{name}',
                (1, channels, 1),
                f'{target}.{name}',
                FLATTEN,
            )
    if kind.sparse:
        for name in ('mean_fixed', 'var_fixed', 'radius'):
            yield Entry(f'{public}.{name}', (1,), f'{target}.{name}')
