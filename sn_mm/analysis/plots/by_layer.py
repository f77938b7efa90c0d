# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios of every layer as stacked bars (ICLR, Fig. 3; TPAMI, Fig. 5)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from . import style

_INCHES_A_LAYER = 0.19
_ROW = 1.75


def draw_layers(numbers: list[dict]) -> Figure:
    """Two rows of bars, means and variances, for every snapshot.

    Args:
        numbers: of :func:`sn_mm.analysis.ratio_numbers.layer_numbers`.
    """
    most = max(len(s['layers']) for s in numbers)
    rows = 2 * len(numbers)
    figure, axes = plt.subplots(
        rows,
        1,
        figsize=(max(7, 1.2 + _INCHES_A_LAYER * most), 1.9 + _ROW * rows),
        squeeze=False,
        layout='constrained',
    )
    same = all(
        [x['name'] for x in s['layers']]
        == [x['name'] for x in numbers[0]['layers']]
        for s in numbers
    )
    for index, snapshot in enumerate(numbers):
        for row, kind in enumerate(('mean', 'var')):
            axis = axes[2 * index + row, 0]
            _bars(axis, snapshot, kind)
            last = 2 * index + row == rows - 1
            labelled = last or (row == 1 and not same)
            _label_layers(axis, snapshot['layers'] if labelled else None)
        _stages(axes[2 * index, 0], snapshot['layers'])
        axes[2 * index, 0].set_title(
            snapshot['title'], loc='left', fontsize=11, pad=20
        )
    statistics = list(
        dict.fromkeys(n for s in numbers for n in s['statistics'])
    )
    kinds = [x['kind'] for s in numbers for x in s['layers']]
    handles = [
        *style.statistic_handles(statistics),
        *style.kind_handles(kinds),
    ]
    style.add_legend(figure, handles)
    return figure


def _bars(axis, snapshot: dict, kind: str) -> None:
    layers = snapshot['layers']
    places = np.arange(len(layers))
    bottom = np.zeros(len(layers))
    for name, colour in style.colours_of(snapshot['statistics']).items():
        heights = np.array([x[kind].get(name, 0.0) for x in layers])
        axis.bar(
            places,
            heights,
            0.86,
            bottom,
            color=colour,
            edgecolor='white',
            linewidth=0.4,
        )
        bottom += heights
    style.mark_kinds(axis, layers, -0.075)
    axis.set_xlim(-0.7, len(layers) - 0.3)
    axis.set_ylim(-0.14, 1)
    axis.set_yticks([0, 0.5, 1])
    axis.set_ylabel('means' if kind == 'mean' else 'variances', fontsize=10)
    axis.spines[['top', 'right', 'bottom']].set_visible(False)
    for _, first, _ in style.stage_spans(layers)[1:]:
        axis.axvline(first - 0.5, color=style.INK, linewidth=1)


def _label_layers(axis, layers: list[dict] | None) -> None:
    if layers is None:
        axis.set_xticks([])
        return
    axis.set_xticks(range(len(layers)))
    axis.set_xticklabels([x['label'] for x in layers], rotation=90, fontsize=8)
    axis.tick_params(axis='x', length=0, pad=1)


def _stages(axis, layers: list[dict]) -> None:
    """Names of the stages above their bars, two lines where it is tight."""
    for number, (stage, first, last) in enumerate(style.stage_spans(layers)):
        tight = last - first + 1 < 0.4 * len(stage)
        axis.text(
            (first + last) / 2,
            1.03 if not tight or number % 2 == 0 else 1.12,
            stage,
            ha='center',
            va='bottom',
            fontsize=9,
            color=style.INK,
        )
