# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Timing that noise on a shared machine spoils least."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch


def time_together(
    candidates: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    warmup: int = 3,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Median milliseconds of every candidate, measured in turns.

    Every round runs every candidate once, in another order: a slow moment of
    the machine hits all of them, none always inherits the allocator and the
    caches from the same other one, and ratios stay comparable.

    Args:
        candidates: name -> what to run.
        repeats: rounds.
        device: synchronized before the clock is read, if it is a GPU.
        warmup: unmeasured rounds.
        advance: called after every run, outside of what is timed; see
            :func:`runs`.

    Raises:
        ValueError: for fewer than one round.
    """
    if repeats < 1:
        raise ValueError(f'repeats must be at least 1, got {repeats}')
    times: dict[str, list[float]] = {name: [] for name in candidates}
    order, shuffle = list(candidates), random.Random(0).shuffle
    for i in range(warmup + repeats):
        shuffle(order)
        for name in order:
            elapsed = _timed(candidates[name], device)
            if i >= warmup:
                times[name].append(elapsed)
            advance()
    return {k: 1e3 * statistics.median(v) for k, v in times.items()}


def runs(candidates: int, repeats: int, warmup: int = 3) -> int:
    """How often :func:`time_together` runs a candidate, for a bar."""
    return candidates * (warmup + repeats)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds; on a GPU those of its own clock."""
    if device.type != 'cuda':
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3
