# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What came out: scores of each run, tables, pictures."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from statistics import mean, stdev

import torch
from mmengine.config import Config

from sn_mm.utils import markdown_table

from .runs import SERIES, STARTS, Run

_SCORES = {'detection': 'coco/bbox_mAP', 'segmentation': 'mIoU'}


def scores(work: Path, run: Run) -> dict[int, float]:
    """Percent by step of evaluation: epochs, or iterations."""
    key = _SCORES[SERIES[run.series].task]
    factor = 100 if SERIES[run.series].task == 'detection' else 1
    found = {}
    for file in sorted((work / run.name).glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if key in entry:
                found[int(entry['step'])] = factor * float(entry[key])
    return found


def is_done(work: Path, run: Run) -> bool:
    """Whether the run is finished."""
    return (work / run.name / 'done').exists()


def last_score(work: Path, run: Run) -> float | None:
    """Of a finished run."""
    found = scores(work, run) if is_done(work, run) else {}
    return found[max(found)] if found else None


def table(work: Path, name: str) -> str | None:
    """A series in Markdown; None if none of its runs is finished."""
    series = SERIES[name]
    rows = []
    for start in series.starts:
        values = [last_score(work, Run(name, start, s)) for s in series.seeds]
        known = [v for v in values if v is not None]
        if known:
            rows.append((start, values, known))
    if not rows:
        return None
    rows.sort(key=lambda row: -mean(row[2]))
    reference = dict((start, values) for start, values, _ in rows)
    reference = reference.get('bn-frozen')
    head = [
        'start of the backbone',
        *(f'seed {s}' for s in series.seeds),
        'mean',
        'deviation',
        'minus BN with frozen statistics, paired',
    ]
    return markdown_table(
        head,
        [
            (
                STARTS[start].title,
                *('-' if v is None else f'{v:.1f}' for v in values),
                f'{mean(known):.1f}',
                f'{stdev(known):.1f}' if len(known) > 1 else '-',
                _paired(values, reference),
            )
            for start, values, known in rows
        ],
        numbers=True,
    )


def _paired(values: list, reference: list | None) -> str:
    """Mean of the differences of the same seeds, and their deviation."""
    pairs = [
        v - r
        for v, r in zip(values, reference or [])
        if v is not None and r is not None
    ]
    if not pairs or values is reference:
        return '-'
    error = f' ± {stdev(pairs):.1f}' if len(pairs) > 1 else ''
    return f'{mean(pairs):+.1f}{error}'


def ratios(path: Path) -> list[list[float]] | None:
    """Shares of every SN layer of a checkpoint: means', then variances'."""
    state = torch.load(path, map_location='cpu', weights_only=False)
    state = state.get('state_dict', state)
    rows = []
    for key, value in state.items():
        if key.endswith('.mean_weight'):
            other = state[key.replace('mean_weight', 'var_weight')]
            rows.append([*value.softmax(-1).tolist(),
                         *other.softmax(-1).tolist()])  # fmt: skip
    return rows or None


def summary(values: list[list[float]]) -> list[float]:
    """Shares averaged over layers."""
    return [mean(column) for column in zip(*values)]


def draw_curves(work: Path, name: str, stem: Path) -> bool:
    """Score against epochs (steps), each start the mean of its seeds."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    series = SERIES[name]
    figure, axis = plt.subplots(figsize=(9, 4.2), layout='constrained')
    colours = ['#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9',
               '#D55E00', '#000000', '#999999', '#F0E442']  # fmt: skip
    drawn = False
    for start, colour in zip(series.starts, colours):
        curves = [
            scores(work, run)
            for run in (Run(name, start, s) for s in series.seeds)
            if is_done(work, run)
        ]
        curves = [c for c in curves if c]
        if not curves:
            continue
        steps = sorted(set.intersection(*(set(c) for c in curves)))
        label = f'{STARTS[start].title} ({len(curves)})'
        axis.plot(
            steps,
            [mean(c[s] for c in curves) for s in steps],
            color=colour,
            marker='o',
            label=label,
        )
        drawn = True
    if drawn:
        task = series.task == 'detection'
        axis.set_xlabel('epoch' if task else 'step')
        axis.set_ylabel('box AP' if task else 'mIoU')
        axis.grid(True, alpha=0.25)
        axis.spines[['top', 'right']].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(
            loc='center left', bbox_to_anchor=(1.02, 0.5), frameon=False
        )
        stem.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(stem.with_suffix('.png'), dpi=110)
    plt.close(figure)
    return drawn


def ratios_of(work: Path, run: Run) -> tuple[list, list] | None:
    """Ratios of a finished run's layers at its start and at its end."""
    files = sorted((work / run.name).glob('*.pth'))
    if not (is_done(work, run) and files):
        return None
    after = ratios(files[-1])
    if after is None:
        return None
    cfg = Config.fromfile(work / run.name / 'config.py')
    return ratios(Path(cfg.model.backbone.init_cfg.checkpoint)), after


def draw_ratios(work: Path, name: str, stem: Path) -> bool:
    """Each layer's ratios after training over those before, seed 0."""
    import matplotlib.pyplot as plt

    found = {
        start: pair
        for start in SERIES[name].starts
        if (pair := ratios_of(work, Run(name, start, 0))) is not None
    }
    if not found:
        return False
    figure, axes = plt.subplots(
        *(2, len(found)),
        figsize=(2.6 * len(found) + 0.6, 5.6),
        layout='constrained',
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for column, (start, (before, after)) in enumerate(found.items()):
        axes[0, column].set_title(textwrap.fill(STARTS[start].title, 24))
        for axis, first in zip(axes[:, column], (0, 3)):
            _draw_moves(axis, before, after, first)
    for axis, moment in zip(axes[:, 0], ('means', 'variances')):
        axis.set_ylabel(f'ratios of {moment}, after')
    for axis in axes[-1]:
        axis.set_xlabel('before training')
    axes[0, 0].legend(frameon=False)
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(stem.with_suffix('.png'), dpi=110)
    plt.close(figure)
    return True


def _draw_moves(axis, before: list, after: list, first: int) -> None:
    """Points of one moment, a colour for each statistic."""
    axis.axline((0, 0), slope=1, color='#BBBBBB', linewidth=1)
    for k, colour in enumerate(('#0072B2', '#E69F00', '#009E73')):
        axis.scatter(
            [row[first + k] for row in before],
            [row[first + k] for row in after],
            s=12,
            alpha=0.7,
            color=colour,
            label=('in', 'ln', 'bn')[k],
        )
    axis.set_aspect('equal')
    axis.spines[['top', 'right']].set_visible(False)
