# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What all figures share: colours, markers, files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402

from sn_mm.utils import written_whole  # noqa: E402

# Okabe and Ito's colours, told apart with any kind of colour vision; these
# four are also of different lightness.
COLOURS = {'in': '#0072B2', 'ln': '#E69F00', 'bn': '#009E73', 'gn': '#CC79A7'}
_MORE = ('#56B4E9', '#D55E00', '#F0E442', '#000000')
LETTERS = {'in': 'I', 'ln': 'L', 'bn': 'B', 'gn': 'G'}
TEXT_ON = {'in': 'white', 'ln': 'black', 'bn': 'white', 'gn': 'black'}
MARKERS = {'3x3': 's', '1x1': 'o', 'shortcut': '^', '7x7': 'D'}
_OTHER_MARKER = 'x'
INK = '#333333'
FORMATS = ('png', 'svg', 'pdf')
# of a cell without a choice: no statistic's colour
UNDECIDED = dict(
    facecolor='white', edgecolor='#999999', hatch='////', linewidth=0.6
)
# text stays text: it can be searched, copied and edited
plt.rcParams.update({'pdf.fonttype': 42})
# no date inside: the same numbers give the same file
_NO_DATE = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}


def colours_of(statistics: Sequence[str]) -> dict[str, str]:
    """A colour for each statistic, the same in all figures."""
    unknown = [s for s in statistics if s not in COLOURS]
    extra = {s: _MORE[i % len(_MORE)] for i, s in enumerate(unknown)}
    return {s: COLOURS.get(s) or extra[s] for s in statistics}


def marker_of(kind: str) -> str:
    """A marker for each kind of layer."""
    return MARKERS.get(kind, _OTHER_MARKER)


def statistic_handles(statistics: Sequence[str]) -> list[Patch]:
    """Legend entries of the statistics."""
    return [
        Patch(facecolor=colour, label=name.upper())
        for name, colour in colours_of(statistics).items()
    ]


def undecided_handle() -> Patch:
    """Legend entry of cells without a choice."""
    return Patch(label='undecided', **UNDECIDED)


def kind_handles(kinds: Iterable[str]) -> list[Line2D]:
    """Legend entries of the kinds of layers."""
    known = [k for k in MARKERS if k in set(kinds)]
    rest = sorted(set(kinds) - set(known))
    return [
        Line2D([], [], linestyle='', marker=marker_of(k), color=INK, label=k)
        for k in known + rest
    ]


def stage_spans(layers: Sequence[dict]) -> list[tuple[str, int, int]]:
    """(stage, first, last) of neighbouring layers of one stage."""
    spans: list[tuple[str, int, int]] = []
    for index, layer in enumerate(layers):
        if spans and spans[-1][0] == layer['stage']:
            spans[-1] = (layer['stage'], spans[-1][1], index)
        else:
            spans.append((layer['stage'], index, index))
    return spans


def add_legend(figure: Figure, handles: Sequence) -> None:
    """Above the axes, in as many rows as the figure's width needs."""
    widest = max(len(h.get_label()) for h in handles)
    inches = 0.7 + 0.085 * widest
    columns = max(1, int(figure.get_figwidth() / inches))
    rows = -(-len(handles) // columns)
    figure.legend(
        handles=handles,
        loc='outside upper center',
        ncols=-(-len(handles) // rows),
        frameon=False,
        fontsize=10,
    )


def mark_kinds(axis, layers: Sequence[dict], height: float) -> None:
    """A marker of its kind at every layer's position."""
    for kind in {layer['kind'] for layer in layers}:
        places = [i for i, x in enumerate(layers) if x['kind'] == kind]
        axis.scatter(
            places,
            [height] * len(places),
            marker=marker_of(kind),
            s=14,
            color=INK,
            linewidths=0.8,
            clip_on=False,
            zorder=3,
        )


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG, SVG and PDF; each whole, or not at all.

    Args:
        figure: closed afterwards.
        stem: of the files, without ending.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = []
    try:
        for kind in FORMATS:
            path = stem.with_name(f'{stem.name}.{kind}')
            with written_whole(path) as temporary:
                figure.savefig(temporary, dpi=150, metadata=_NO_DATE.get(kind))
            files.append(path)
    finally:
        plt.close(figure)
    return files
