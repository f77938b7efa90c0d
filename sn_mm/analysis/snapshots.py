# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints and histories as one thing: ratios at some points in time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sn_mm.anatomy.layer_info import LayerInfo, infos_of_state
from sn_mm.anatomy.ratios import LayerRatios, all_ratios_of_state
from sn_mm.checkpoints.weights import read_weights
from sn_mm.utils.errors import CheckpointError

from .history import FILE_NAME, HistoryError, read_history

_NUMBER = re.compile(r'(epoch|iter)_(\d+)')


@dataclass(frozen=True)
class Snapshot:
    """All layers at one time.

    Attributes:
        title: for figures.
        layers: what they are, in the model's order.
        ratios: of each one.
        iteration: training steps done; None if not known.
    """

    title: str
    layers: list[LayerInfo]
    ratios: list[LayerRatios]
    iteration: int | None = None


@dataclass(frozen=True)
class Run:
    """A run, or what is left of it: snapshots, oldest first."""

    title: str
    snapshots: list[Snapshot]


def read_sources(
    paths: Sequence[str], titles: Sequence[str] | None = None
) -> list[Run]:
    """Read checkpoints, history files and work folders.

    Args:
        paths: ``.pth`` files, ``sn://FILE``, history files, or folders with
            a history or with checkpoints.
        titles: one for each; by default what tells the paths apart.

    Raises:
        ValueError: if one is missing or broken, has no SN layer, or if there
            are not as many titles as paths.
    """
    titles = list(titles) if titles else _titles(paths)
    if len(titles) != len(paths):
        raise ValueError(
            f'{len(titles)} titles for {len(paths)} sources: give one for each'
        )
    return [_read(path, title) for path, title in zip(paths, titles)]


def with_fields(source: Run, layers: Sequence[LayerInfo]) -> Run:
    """The source with what a model tells about its layers.

    A history that knows its receptive fields is given back as it is.

    Raises:
        ValueError: if the model has other SN layers.
    """
    known = {layer.name: layer for layer in layers}
    made = []
    for snapshot in source.snapshots:
        if any(x.receptive_field is not None for x in snapshot.layers):
            return source
        names = [layer.name for layer in snapshot.layers]
        others = sorted(set(names) ^ set(known))
        if others:
            raise ValueError(
                f'{snapshot.title} and the model of the config do not have '
                f'the same SN layers ({others[0]} is in one of them): name '
                "the config of the source's own training"
            )
        infos = [known[name] for name in names]
        made.append(replace(snapshot, layers=infos))
    return Run(source.title, made)


def check_same_layers(snapshots: Sequence[Snapshot]) -> None:
    """Raise ValueError unless all snapshots are of the same layers."""
    first = snapshots[0]
    names = [layer.name for layer in first.layers]
    for other in snapshots[1:]:
        theirs = [layer.name for layer in other.layers]
        if theirs != names:
            only = sorted(set(names) ^ set(theirs)) or ['(their order)']
            raise ValueError(
                f'{first.title} and {other.title} do not have the same SN '
                f'layers ({only[0]} is in one of them): compare snapshots of '
                'one model, or draw them with "components"'
            )


def _read(path: str, title: str) -> Run:
    place = Path(path)
    if place.is_dir():
        if (place / FILE_NAME).is_file():
            return _of_history(place / FILE_NAME, title)
        return _of_folder(place, title)
    if place.suffix in ('.jsonl', '.json'):
        return _of_history(place, title)
    return Run(title, [_of_checkpoint(path, title)])


def _of_history(path: Path, title: str) -> Run:
    history = read_history(path)
    if not history.records:
        raise HistoryError(
            f'{path} has no record yet: train some more iterations, or lower '
            "RatioHook's interval"
        )
    return Run(
        title,
        [
            Snapshot(
                f'{title}, iteration {r.iteration}',
                history.layers,
                r.ratios,
                r.iteration,
            )
            for r in history.records
        ],
    )


def _of_folder(folder: Path, title: str) -> Run:
    files = [f for f in folder.glob('*.pth') if _NUMBER.search(f.name)]
    if not files:
        raise CheckpointError(
            f'{folder} has neither {FILE_NAME} nor checkpoints (epoch_*.pth, '
            'iter_*.pth): name the work folder of a training run'
        )
    files.sort(key=lambda f: int(_NUMBER.search(f.name)[2]))
    made = [_of_checkpoint(str(f), f'{title}, {f.stem}') for f in files]
    check_same_layers(made)
    return Run(title, made)


def _of_checkpoint(path: str, title: str) -> Snapshot:
    content = read_weights(path)
    state = content['state_dict']
    try:
        ratios = all_ratios_of_state(state)
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from error
    broken = [r.name for r in ratios if not r.is_finite()]
    if broken:
        raise CheckpointError(
            f'{path}: the ratios of {broken[0]} are not finite: the training '
            'diverged; take an earlier checkpoint'
        )
    meta = content.get('meta') or {}
    return Snapshot(
        title, infos_of_state(state, ratios), ratios, _iteration(meta, path)
    )


def _iteration(meta: dict, path: str) -> int | None:
    if isinstance(meta.get('iter'), int):
        return meta['iter']
    found = _NUMBER.search(Path(path).name)
    return int(found[2]) if found and found[1] == 'iter' else None


def _titles(paths: Sequence[str]) -> list[str]:
    """File names, with as many folders as tell them apart."""
    places = [Path(p).absolute() for p in paths]
    parts = [
        (*p.parent.parts[:-1], p.parent.name)
        if p.name == FILE_NAME
        else (*p.parent.parts, p.name.removesuffix('.pth'))
        for p in places
    ]
    count = 1
    while len({p[-count:] for p in parts}) < len(set(parts)):
        count += 1
    return ['/'.join(p[-count:]) for p in parts]
