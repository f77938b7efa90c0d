# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Errors of a transplant against its steps."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from . import style

_COLOURS = ('#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00')
_LINES = ('-', '--', '-.', ':')
# steps that a line of the batches taught with is averaged over, at most
_WINDOW = 20


def draw_errors(
    names: Sequence[str],
    taught: Sequence[Sequence[float]],
    held_out: Sequence[tuple[int, Sequence[float]]],
    best: int,
) -> Figure:
    """One colour for each output; both axes as in :class:`.Transplant`.

    Args:
        names: of the outputs.
        taught: errors of every step; thin lines, averaged over some steps.
        held_out: step and errors on pictures not taught with; thick lines
            with dots.
        best: the step of the best state.
    """
    figure, axis = plt.subplots(figsize=(8, 4.6), layout='constrained')
    steps = [step for step, _ in held_out]
    for index, name in enumerate(names):
        look = dict(
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_LINES[index // len(_COLOURS) % len(_LINES)],
        )
        line = _smooth([errors[index] for errors in taught])
        axis.plot(np.arange(1, len(line) + 1), line, alpha=0.4, **look)
        axis.plot(
            steps,
            [errors[index] for _, errors in held_out],
            marker='o',
            markersize=3.5,
            linewidth=2.0,
            label=name,
            **look,
        )
    axis.axvline(best, color=style.INK, linewidth=0.8, linestyle=':')
    axis.set_yscale('log')
    axis.set_xlabel('step (dotted: the state that was kept)')
    axis.set_ylabel("squared error / the teacher's mean square")
    axis.grid(True, which='both', alpha=0.25)
    axis.spines[['top', 'right']].set_visible(False)
    style.add_legend(figure, axis.get_legend_handles_labels()[0])
    return figure


def _smooth(values: Sequence[float]) -> np.ndarray:
    """Means over the steps before; at the beginning over fewer."""
    window = min(_WINDOW, max(1, len(values) // 10))
    values = np.asarray(values, float)
    return np.array(
        [
            np.nanmean(values[max(0, i - window + 1) : i + 1])
            if np.isfinite(values[max(0, i - window + 1) : i + 1]).any()
            else np.nan
            for i in range(len(values))
        ]
    )
