# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The numbers behind the figures, as plain values that go into JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sn_mm.anatomy.components import in_order
from sn_mm.anatomy.layer_info import LayerInfo
from sn_mm.anatomy.ratios import MOMENTS, UNDECIDED, LayerRatios

from .snapshots import Run, Snapshot, check_same_layers

# The paper's groups (TPAMI, Fig. 7, 10 and 13).
BINS = (49, 299)
# A ratio of 0 would make the divergence infinite.
_FLOOR = 1e-6
_DIGITS = 6
_NOTHING = 'undecided'


def symmetric_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) + KL(q || p), in nats (TPAMI, Fig. 7c).

    Args:
        p, q: (..., K) ratios; those below 1e-6 are taken to be 1e-6.

    Returns:
        (...), at least 0.
    """
    p, q = (np.maximum(t, _FLOOR) for t in (p, q))
    return ((p - q) * (np.log(p) - np.log(q))).sum(-1)


def divergence_of(layer: LayerRatios) -> float:
    """Between a layer's mean and variance ratios, averaged over groups."""
    return float(symmetric_divergence(layer.mean, layer.var).mean())


def statistics_of(snapshots: Sequence[Snapshot]) -> list[str]:
    """All statistics that occur, in the order of the layers' own."""
    found: dict[str, None] = {}
    for snapshot in snapshots:
        for layer in snapshot.layers:
            found.update(dict.fromkeys(layer.statistics))
    return list(found)


def layer_numbers(snapshots: Sequence[Snapshot]) -> list[dict]:
    """Every layer's ratios, a dict for each snapshot."""
    return [
        dict(
            title=s.title,
            iteration=s.iteration,
            statistics=statistics_of([s]),
            layers=[
                dict(
                    info.to_json(),
                    label=info.short,
                    divergence=_round(divergence_of(ratios)),
                    **{k: _shares(ratios, k) for k in MOMENTS},
                )
                for info, ratios in zip(s.layers, s.ratios)
            ],
        )
        for s in snapshots
    ]


def component_numbers(snapshots: Sequence[Snapshot]) -> list[dict]:
    """Average ratios of each component, and of all layers together."""
    made = []
    for s in snapshots:
        names = statistics_of([s])
        pairs = list(zip(s.layers, s.ratios))
        groups = {
            component: [r for i, r in pairs if i.component == component]
            for component in in_order([i.component for i, _ in pairs])
        }
        if len(groups) > 1:
            groups['all'] = s.ratios
        made.append(
            dict(
                title=s.title,
                iteration=s.iteration,
                statistics=names,
                components={
                    component: dict(
                        layers=len(own),
                        **{k: _average(own, k, names) for k in MOMENTS},
                    )
                    for component, own in groups.items()
                },
            )
        )
    return made


def time_numbers(
    source: Run, bins: Sequence[float] = BINS
) -> dict[str, object]:
    """Ratios and divergence against time, grouped by receptive field.

    Args:
        source: at least two snapshots whose iterations are known.
        bins: where groups of receptive fields begin, pixels, ascending.

    Raises:
        ValueError: for fewer snapshots, or times that are not known.
    """
    snapshots = source.snapshots
    times = [s.iteration for s in snapshots]
    if len(snapshots) < 2 or None in times:
        raise ValueError(
            f'{source.title} has no history: name a history file, or a work '
            'folder with several checkpoints (iter_*.pth) of one run'
        )
    if list(bins) != sorted(set(bins)):
        raise ValueError(f'bins must ascend, got {list(bins)}')
    names = statistics_of(snapshots)
    layers = snapshots[0].layers
    groups: dict[str, list[int]] = {t: [] for t in _group_titles(bins)}
    for index, layer in enumerate(layers):
        groups[_group(layer, bins)].append(index)
    return dict(
        title=source.title,
        iterations=times,
        statistics=names,
        groups=[
            _group_numbers(title, members, snapshots, names)
            for title, members in groups.items()
            if members
        ],
    )


def _group_numbers(
    title: str, members: list[int], snapshots, names
) -> dict[str, object]:
    return dict(
        title=title,
        layers=[
            dict(
                label=snapshots[0].layers[i].short,
                name=snapshots[0].layers[i].name,
                divergence=[
                    _round(divergence_of(s.ratios[i])) for s in snapshots
                ],
                **{
                    k: {
                        n: [_round(s.ratios[i].share(k, n)) for s in snapshots]
                        for n in names
                    }
                    for k in MOMENTS
                },
            )
            for i in members
        ],
    )


def hard_numbers(snapshots: Sequence[Snapshot]) -> dict[str, object]:
    """Which statistics the layers would use alone, and what changed.

    A largest ratio that leads by less than :data:`UNDECIDED` is no choice:
    'undecided' stands in its place.

    Raises:
        ValueError: for snapshots of different models.
    """
    check_same_layers(snapshots)
    choices = [
        [{k: _decided(r, k) for k in MOMENTS} for r in s.ratios]
        for s in snapshots
    ]
    made = []
    for number, (s, now) in enumerate(zip(snapshots, choices)):
        entry = dict(
            title=s.title,
            iteration=s.iteration,
            mean=[list(c['mean']) for c in now],
            var=[list(c['var']) for c in now],
            differing=sum(
                _NOTHING not in c['mean'] + c['var'] and c['mean'] != c['var']
                for c in now
            ),
            undecided=sum(_NOTHING in c['mean'] + c['var'] for c in now),
        )
        if number:
            before = choices[number - 1]
            entry['changed'] = [a != b for a, b in zip(before, now)]
            for kind in MOMENTS:
                entry[f'changed_{kind}'] = [
                    a[kind] != b[kind] for a, b in zip(before, now)
                ]
        made.append(entry)
    return dict(
        layers=[dict(i.to_json(), label=i.short) for i in snapshots[0].layers],
        statistics=statistics_of(snapshots),
        snapshots=made,
    )


def _decided(ratios: LayerRatios, kind: str) -> tuple[str, ...]:
    """Each group's choice, if it is one."""
    return tuple(
        name if margin >= UNDECIDED else _NOTHING
        for name, margin in zip(ratios.choice(kind), ratios.margin(kind))
    )


def _group_titles(bins: Sequence[float]) -> list[str]:
    edges = [f'{edge:g}' for edge in bins]
    titles = [f'RF < {edges[0]}'] if edges else []
    titles += [f'{a} ≤ RF < {b}' for a, b in zip(edges, edges[1:])]
    titles.append(f'RF ≥ {edges[-1]}' if edges else 'all receptive fields')
    return [*titles, 'whole image', 'RoI, or not known']


def _group(layer: LayerInfo, bins: Sequence[float]) -> str:
    titles, field = _group_titles(bins), layer.receptive_field
    if field is None:
        return titles[-1]
    if field == math.inf:
        return titles[-2]
    return titles[sum(field >= edge for edge in bins)]


def _shares(ratios: LayerRatios, kind: str) -> dict[str, float]:
    return {n: _round(ratios.share(kind, n)) for n in ratios.statistics}


def _average(
    layers: Sequence[LayerRatios], kind: str, names: Sequence[str]
) -> dict[str, float]:
    return {
        n: _round(np.mean([layer.share(kind, n) for layer in layers]))
        for n in names
    }


def _round(value: float) -> float:
    return round(float(value), _DIGITS)
