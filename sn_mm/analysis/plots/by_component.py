# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Average ratios of each component (TPAMI, Fig. 1c, 4 and 11)."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from sn_mm.anatomy.components import label

from . import style

_GAP = 0.42
_LEGIBLE = 0.07


def draw_components(numbers: list[dict]) -> Figure:
    """A panel for every snapshot; two bars, mean and var, a component.

    Args:
        numbers: of :func:`sn_mm.analysis.ratio_numbers.component_numbers`.
    """
    counts = [len(s['components']) for s in numbers]
    figure, axes = plt.subplots(
        1,
        len(numbers),
        figsize=(max(5.0, 1.2 + 1.15 * sum(counts)), 4.2),
        squeeze=False,
        sharey=True,
        width_ratios=counts,
        layout='constrained',
    )
    for axis, snapshot in zip(axes[0], numbers):
        _panel(axis, snapshot)
    axes[0, 0].set_ylabel('average ratio')
    statistics = list(
        dict.fromkeys(n for s in numbers for n in s['statistics'])
    )
    figure.legend(
        handles=style.statistic_handles(statistics),
        loc='outside upper center',
        ncols=len(statistics),
        frameon=False,
    )
    return figure


def _panel(axis, snapshot: dict) -> None:
    places, names = [], []
    for index, values in enumerate(snapshot['components'].values()):
        for side, kind in ((-1, 'mean'), (1, 'var')):
            place = index + side * _GAP / 2
            _bar(axis, place, values[kind], snapshot['statistics'])
            places.append(place)
            names.append(kind)
    axis.set_xticks(places, names, fontsize=8)
    axis.tick_params(axis='x', length=0)
    for index, (component, values) in enumerate(
        snapshot['components'].items()
    ):
        title = 'all' if component == 'all' else label(component)
        axis.text(
            index,
            -0.11,
            title.replace(' / ', ' /\n').replace(' head', '\nhead')
            + f'\n({values["layers"]})',
            ha='center',
            va='top',
            fontsize=9,
            transform=axis.get_xaxis_transform(),
        )
    # room for the three lines that the ticks do not know of
    axis.set_xlabel('\n\n\n', fontsize=9)
    axis.set_xlim(-0.6, len(snapshot['components']) - 0.4)
    axis.set_ylim(0, 1)
    axis.set_title(snapshot['title'], fontsize=11)
    axis.spines[['top', 'right']].set_visible(False)


def _bar(axis, place: float, shares: dict, statistics: list[str]) -> None:
    bottom = 0.0
    for name, colour in style.colours_of(statistics).items():
        share = shares[name]
        axis.bar(
            place, share, _GAP * 0.92, bottom, color=colour, edgecolor='white'
        )
        if share >= _LEGIBLE:
            axis.text(
                place,
                bottom + share / 2,
                f'{share:.2f}'.lstrip('0'),
                ha='center',
                va='center',
                fontsize=8,
                color=style.TEXT_ON.get(name, 'black'),
            )
        bottom += share
