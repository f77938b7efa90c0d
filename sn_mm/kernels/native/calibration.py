# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which variant of the sweeps suits this machine, found by trying.

Fetching ahead and writing past the caches save a sixth of the time on one
processor and cost as much on another. What was found is kept beside the
compiled library, so that it is tried once a machine. Results are the same
bits with every variant.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .library import cache_folder, processor, write_whole

VARIABLE = 'SN_MM_VARIANT'
_AHEAD = 2048
_MB = 1 << 20
_THREADS = 1
_SIZES = (2 * _MB, 6 * _MB, 24 * _MB)  # of x, and of what is written
_SECONDS = 0.18  # for one question
_ROUNDS = range(3, 25)
# What is no default must be that much faster. What goes past the caches goes
# through a buffer first, which rows shorter than those tried pay for.
_GAIN, _STREAMING_GAIN = 0.97, 0.93


class Variant(NamedTuple):
    """How sweeps touch memory.

    Attributes:
        read_ahead, write_ahead: how many values ahead of its work a sweep
            fetches what it reads, and what it writes, from memory.
        stream_from: bytes of output from which on it is written past the
            caches; never if negative.
    """

    read_ahead: int = _AHEAD
    write_ahead: int = 0
    stream_from: int = -1

    def __str__(self) -> str:
        def ahead(values: int) -> str:
            return f'{values} values ahead' if values else 'nothing ahead'

        text = (
            f'fetches {ahead(self.read_ahead)} of reading and '
            f'{ahead(self.write_ahead)} of writing, '
        )
        if self.stream_from < 0:
            return text + 'writes through the caches'
        size = self.stream_from / _MB
        return (
            text + f'writes outputs of {size:.3g} MB or more past the caches'
        )


class Choice(NamedTuple):
    """A variant, and where it comes from."""

    variant: Variant
    origin: str


def choose(
    library: ctypes.CDLL, dtype: torch.dtype, sources: Sequence[Path]
) -> Choice:
    """The variant to use.

    Args:
        library: compiled sweeps, on which variants are tried if there is no
            choice of this machine yet.
        dtype: of its values.
        sources: what it was compiled from.

    Raises:
        ValueError: if the environment variable SN_MM_VARIANT is set, but not
            to three integers.
    """
    text = os.environ.get(VARIABLE)
    if text:
        return Choice(_parsed(text), f'{VARIABLE} says so')
    try:
        path = _path(sources)
        kept = _kept(path)
    except (OSError, RuntimeError):  # no cache, or none that can be read
        path = kept = None
    if kept is not None:
        return Choice(kept, 'as found on this machine before')
    try:
        found = calibrate(library, dtype)
    except (RuntimeError, MemoryError):  # too little memory to try
        return Choice(Variant(), 'untried')
    if path is not None:
        with contextlib.suppress(OSError):
            write_whole(path, json.dumps(found._asdict()).encode())
    return Choice(found, 'as found on this machine')


def calibrate(library: ctypes.CDLL, dtype: torch.dtype) -> Variant:
    """Try what matters, in less than a second."""
    trial = _Trial(library, dtype, _SIZES[-1])
    best = Variant(_AHEAD, 0, -1)
    best = trial.faster(trial.moments, best, best._replace(read_ahead=0))
    best = trial.faster(trial.layer, best, best._replace(write_ahead=_AHEAD))
    for size in reversed(_SIZES):
        trial = _Trial(library, dtype, size)
        streaming = best._replace(stream_from=size)
        if trial.faster(trial.layer, best, streaming, _STREAMING_GAIN) is best:
            break
        best = streaming
    return best


class _Trial:
    """Sweeps over an input of that many bytes."""

    def __init__(
        self, library: ctypes.CDLL, dtype: torch.dtype, size: int
    ) -> None:
        channels = 64
        width = torch.empty((), dtype=dtype).element_size()
        positions = size // channels // width

        def fresh(*shape: int, **kwargs) -> Tensor:
            return torch.zeros(shape, device='cpu', **kwargs)

        self._library = library
        self._x = fresh(1, channels, positions, dtype=dtype)
        self._numbers = fresh(2, 1, channels, dtype=torch.float64)
        self._factors = fresh(4, channels, dtype=torch.float32)
        self._shape = 1, channels, positions, False

    def moments(self) -> None:
        """A read of the input."""
        self._library.sweeps_moments(
            self._x.data_ptr(),
            *self._shape,
            self._numbers.data_ptr(),
            _THREADS,
        )

    def layer(self) -> None:
        """Forward and backward, into memory that is fresh as a layer's.

        Fresh pages come through the caches, and what was written is read
        next: sweeps into the same memory again would not show either.
        """
        x, numbers = self._x.data_ptr(), self._numbers.data_ptr()
        scale, near, slope, shift = (f.data_ptr() for f in self._factors)
        y, dx = torch.empty_like(self._x), torch.empty_like(self._x)
        self.moments()
        self._library.sweeps_affine(
            *(x, *self._shape, near, scale, shift, False),
            *(y.data_ptr(), _THREADS),
        )
        self._library.sweeps_products(
            *(y.data_ptr(), x, *self._shape, near, None, None, numbers),
            _THREADS,
        )
        self._library.sweeps_combine(
            *(y.data_ptr(), x, *self._shape, scale, near, slope, shift),
            *(None, None, dx.data_ptr(), _THREADS),
        )

    def faster(
        self,
        work: Callable[[], None],
        default: Variant,
        other: Variant,
        gain: float = _GAIN,
    ) -> Variant:
        """``other`` if it is clearly faster, else ``default``.

        Both are tried in turn, and each one's best time counts: whatever
        else the machine does makes some of them slower. Times are those of
        this thread, without what others had of its core.
        """
        best = dict.fromkeys((default, other), float('inf'))
        work()  # pages and caches are not warm yet
        end = time.perf_counter() + _SECONDS
        for done in range(_ROUNDS.stop):
            if done >= _ROUNDS.start and time.perf_counter() > end:
                break
            for variant in best:
                self._library.sweeps_tune(*variant)
                start = time.thread_time()
                work()
                seconds = time.thread_time() - start
                best[variant] = min(best[variant], seconds)
        return other if best[other] < gain * best[default] else default


def _parsed(text: str) -> Variant:
    try:
        variant = Variant(*(int(part) for part in text.split(',')))
    except (TypeError, ValueError):
        variant = None
    if variant is None or text.count(',') != 2 or not _is_sane(variant):
        raise ValueError(
            f'{VARIABLE}={text!r} is not three integers: values to fetch '
            'ahead of reading, ahead of writing, and bytes of output from '
            'which on it is written past the caches, such as 2048,0,-1'
        )
    return variant


def _is_sane(variant: Variant) -> bool:
    return all(type(v) is int for v in variant) and all(
        0 <= ahead <= _MB for ahead in variant[:2]
    )


def _path(sources: Sequence[Path]) -> Path:
    """Where the choice for this processor and these sources is kept."""
    digest = hashlib.sha256(processor().encode())
    for path in (*sources, Path(__file__)):
        digest.update(path.read_bytes())
    return cache_folder() / f'variant-{digest.hexdigest()[:16]}.json'


def _kept(path: Path) -> Variant | None:
    try:
        variant = Variant(**json.loads(path.read_bytes()))
    except (FileNotFoundError, TypeError, ValueError):
        return None
    return variant if _is_sane(variant) else None
