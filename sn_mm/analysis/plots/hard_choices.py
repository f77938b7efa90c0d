# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Hard ratios of several snapshots, and what changed (TPAMI, Fig. 8)."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from . import style

_INCHES_A_LAYER = 0.2


def draw_hard(numbers: dict) -> Figure:
    """Two rows of cells, mean and var, for every snapshot.

    A black frame is a choice that changed since the snapshot above; a hatched
    cell is no choice, where two ratios are (nearly) the largest.

    Args:
        numbers: of :func:`sn_mm.analysis.ratio_numbers.hard_numbers`.
    """
    layers, snapshots = numbers['layers'], numbers['snapshots']
    figure, axes = plt.subplots(
        len(snapshots),
        1,
        figsize=(
            max(8, 1.6 + _INCHES_A_LAYER * len(layers)),
            2.0 + 1.05 * len(snapshots),
        ),
        squeeze=False,
        layout='constrained',
    )
    colours = style.colours_of(numbers['statistics'])
    some_undecided = any(s['undecided'] for s in snapshots)
    for index, snapshot in enumerate(snapshots):
        axis = axes[index, 0]
        _cells(axis, snapshot, colours)
        _frame(axis, layers)
        axis.set_title(
            f'{snapshot["title"]}: {_changes(snapshot, len(layers))}',
            loc='left',
            fontsize=10,
            pad=16 if index == 0 else 4,
        )
        axis.set_xticks([])
    _stages(axes[0, 0], layers)
    bottom = axes[-1, 0]
    style.mark_kinds(bottom, layers, -0.17)
    bottom.set_xticks(range(len(layers)))
    bottom.set_xticklabels(
        [x['label'] for x in layers], rotation=90, fontsize=8
    )
    bottom.tick_params(axis='x', length=0, pad=12)
    style.add_legend(
        figure,
        [
            *style.statistic_handles(numbers['statistics']),
            *([style.undecided_handle()] if some_undecided else []),
            *style.kind_handles([x['kind'] for x in layers]),
            Line2D(
                [],
                [],
                linestyle='',
                marker='s',
                markersize=9,
                markerfacecolor='none',
                markeredgecolor='black',
                markeredgewidth=2,
                label='changed',
            ),
        ],
    )
    return figure


def _cells(axis, snapshot: dict, colours: dict) -> None:
    for row, kind in enumerate(('var', 'mean')):
        for place, names in enumerate(snapshot[kind]):
            share = 0.9 / len(names)
            for part, name in enumerate(names):
                corner = (place - 0.45, row + 0.05 + part * share)
                look = (
                    dict(color=colours[name], lw=0)
                    if name in colours
                    else style.UNDECIDED
                )
                axis.add_patch(Rectangle(corner, 0.9, share, **look))
            if len(names) == 1 and names[0] in colours:
                axis.text(
                    place,
                    row + 0.48,
                    style.LETTERS.get(names[0], '?'),
                    ha='center',
                    va='center',
                    fontsize=8,
                    color=style.TEXT_ON.get(names[0], 'black'),
                )
            if _is_new(snapshot, kind, place):
                axis.add_patch(
                    Rectangle(
                        (place - 0.43, row + 0.07),
                        0.86,
                        0.86,
                        fill=False,
                        edgecolor='black',
                        linewidth=2,
                        zorder=3,
                    )
                )


def _is_new(snapshot: dict, kind: str, place: int) -> bool:
    """Whether a cell is not what it was in the snapshot above."""
    return 'changed' in snapshot and snapshot[f'changed_{kind}'][place]


def _frame(axis, layers: list[dict]) -> None:
    axis.set_xlim(-0.7, len(layers) - 0.3)
    axis.set_ylim(0, 2)
    axis.set_yticks([0.5, 1.5], ['var', 'mean'])
    axis.tick_params(axis='y', length=0)
    axis.spines[:].set_visible(False)
    for _, first, _ in style.stage_spans(layers)[1:]:
        axis.axvline(first - 0.5, color=style.INK, linewidth=1)


def _stages(axis, layers: list[dict]) -> None:
    for number, (stage, first, last) in enumerate(style.stage_spans(layers)):
        tight = last - first + 1 < 0.4 * len(stage)
        axis.text(
            (first + last) / 2,
            2.04 if not tight or number % 2 == 0 else 2.24,
            stage,
            ha='center',
            va='bottom',
            fontsize=9,
            color=style.INK,
        )


def _changes(snapshot: dict, count: int) -> str:
    text = f'mean and var differ in {snapshot["differing"]} of {count} layers'
    if 'changed' in snapshot:
        moved = sum(snapshot['changed'])
        text += f'; {moved} changed ({moved / count:.0%})'
    if snapshot['undecided']:
        text += f'; {snapshot["undecided"]} undecided'
    return text
