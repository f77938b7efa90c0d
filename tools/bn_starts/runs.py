# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which trainings the experiment consists of, in the order they are run."""

from __future__ import annotations

from dataclasses import dataclass

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Start:
    """What a backbone starts from.

    Attributes:
        title: in tables.
        norm_cfg: of the backbone.
        transplant: arguments of tools/transplant.py; None for no
            transplant.
        norm_eval: BN stays in evaluation mode.
        ratio_rate: factor of the learning rate of ratios.
    """

    title: str
    norm_cfg: dict
    transplant: tuple[str, ...] | None = None
    norm_eval: bool = False
    ratio_rate: float = 1.0


_SN = dict(type='SN', requires_grad=True)
_GN = dict(type='GN', num_groups=8, requires_grad=True)
STARTS = {
    'sn-transplanted': Start('SN, transplanted', _SN, ()),
    # as the toolboxes' ResNets have it: affine parameters are trained
    'bn-frozen': Start(
        'BN, statistics frozen',
        dict(type='BN', requires_grad=True),
        norm_eval=True,
    ),
    'sn-equal': Start("SN, BN's affine, equal ratios", _SN),
    'gn-transplanted': Start('GN, transplanted', _GN, ()),
    'gn-affine': Start("GN, BN's affine", _GN),
    'sn-norms': Start('SN, transplanted, norms only', _SN, ('--norms-only',)),
    'bn': Start('BN', dict(type='BN', requires_grad=True)),
    'sn-faster': Start(
        'SN, transplanted, ratios 20 times faster', _SN, (), ratio_rate=20.0
    ),
    'bn-fixed': Start(
        'BN, statistics and affine frozen',
        dict(type='BN', requires_grad=False),
        norm_eval=True,
    ),
}


@dataclass(frozen=True)
class Series:
    """A table of the experiment.

    Attributes:
        title: above the table.
        task: 'detection' or 'segmentation'.
        starts: keys of :data:`STARTS`.
        batch: pictures of a step.
        labelled: pictures with labels; None for all.
        seeds: of the trainings.
    """

    title: str
    task: str
    starts: tuple[str, ...]
    batch: int = 2
    labelled: int | None = None
    seeds: tuple[int, ...] = SEEDS


SERIES = {
    'a': Series('2 pictures a step', 'detection', tuple(STARTS)),
    'b': Series(
        '50 labelled pictures, the others without labels',
        'detection',
        ('sn-transplanted', 'bn-frozen', 'sn-equal', 'gn-transplanted',
         'gn-affine'),
        labelled=50,
    ),
    'c': Series(
        '1 picture a step',
        'detection',
        ('sn-transplanted', 'bn-frozen', 'sn-equal', 'bn'),
        batch=1,
    ),
    'd': Series(
        'segmentation of nuclei, 2 pictures a step',
        'segmentation',
        ('sn-transplanted', 'bn-frozen', 'sn-equal', 'bn'),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: a start, in a series, with a seed."""

    series: str
    start: str
    seed: int

    @property
    def name(self) -> str:
        return f'{self.series}/{self.start}/seed{self.seed}'


def all_runs(series: list[str]) -> list[Run]:
    """Every start once, series by series, then again with another seed."""
    return [
        Run(name, start, seed)
        for name in series
        for seed in SERIES[name].seeds
        for start in SERIES[name].starts
    ]
