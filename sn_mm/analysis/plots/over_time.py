# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios against training time (TPAMI, Fig. 7, 10 and 13)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from . import style

_COLUMNS = ('means', 'variances', 'divergence')
# of the ratios' axis at least, so that noise does not look like a choice
_LEAST_SPAN = 0.1
_LINES = {'in': '-', 'ln': '--', 'bn': '-.', 'gn': ':'}


def draw_time(numbers: list[dict]) -> Figure:
    """Groups of receptive fields in rows; sources side by side.

    Thick lines are averages of a group, thin ones its layers. All ratios of
    the figure have one axis, from the smallest to the largest: within an
    epoch or two they move by hundredths.

    Args:
        numbers: of :func:`sn_mm.analysis.ratio_numbers.time_numbers`.
    """
    titles = list(
        dict.fromkeys(g['title'] for s in numbers for g in s['groups'])
    )
    columns = 3 * len(numbers)
    limits = _limits(numbers)
    figure, axes = plt.subplots(
        len(titles),
        columns,
        figsize=(3.3 * columns, 1.0 + 2.05 * len(titles)),
        squeeze=False,
        layout='constrained',
        sharex='col',
    )
    for index, source in enumerate(numbers):
        block = axes[:, 3 * index : 3 * index + 3]
        groups = {g['title']: g for g in source['groups']}
        top = _largest_divergence(source)
        for row, title in enumerate(titles):
            _row(block[row], source, groups.get(title), limits, top)
            count = len(groups[title]['layers']) if title in groups else 0
            block[row, 0].set_ylabel(f'{title}\n{count} layers', fontsize=9)
        name = f'{source["title"]}: ' if len(numbers) > 1 else ''
        for axis, column in zip(block[0], _COLUMNS):
            axis.set_title(f'{name}{column}', fontsize=10)
        for axis in block[-1]:
            axis.set_xlabel('iteration', fontsize=9)
    statistics = list(
        dict.fromkeys(n for s in numbers for n in s['statistics'])
    )
    figure.legend(
        handles=[
            Line2D(
                [],
                [],
                color=colour,
                linestyle=_LINES.get(name, '-'),
                linewidth=2.4,
                label=name.upper(),
            )
            for name, colour in style.colours_of(statistics).items()
        ],
        loc='outside upper center',
        ncols=len(statistics),
        frameon=False,
    )
    return figure


def _row(
    axes,
    source: dict,
    group: dict | None,
    limits: tuple[float, float],
    top: float,
) -> None:
    if group is None:
        for axis in axes:
            axis.set_axis_off()
        return
    times = source['iterations']
    for axis, kind in zip(axes, ('mean', 'var')):
        for name, colour in style.colours_of(source['statistics']).items():
            lines = np.array([x[kind][name] for x in group['layers']])
            axis.plot(times, lines.T, color=colour, alpha=0.22, linewidth=0.7)
            axis.plot(
                times,
                lines.mean(0),
                color=colour,
                linewidth=2.4,
                linestyle=_LINES.get(name, '-'),
            )
        axis.set_ylim(*limits)
    lines = np.array([x['divergence'] for x in group['layers']])
    axes[2].plot(times, lines.T, color=style.INK, alpha=0.22, linewidth=0.7)
    axes[2].plot(times, lines.mean(0), color=style.INK, linewidth=2.4)
    axes[2].set_ylim(0, top)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.grid(True, alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)


def _limits(numbers: list[dict]) -> tuple[float, float]:
    """A common axis of all ratios, a twentieth wider than they are."""
    values = [
        v
        for source in numbers
        for group in source['groups']
        for layer in group['layers']
        for kind in ('mean', 'var')
        for share in layer[kind].values()
        for v in share
    ]
    low, high = min(values), max(values)
    margin = max(0.05 * (high - low), (_LEAST_SPAN - (high - low)) / 2)
    return max(low - margin, -0.02), min(high + margin, 1.02)


def _largest_divergence(source: dict) -> float:
    """A common end of the axes."""
    values = [
        v
        for group in source['groups']
        for layer in group['layers']
        for v in layer['divergence']
    ]
    return max(1.05 * max(values), 0.05)
