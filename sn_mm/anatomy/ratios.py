# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The ratios of SN layers, out of models and out of state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from sn_mm.layers import RowNorm
from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.layers.ratio_forms import MOMENTS, sparse_ratios

from .norms import has_ratios

# Checkpoints do not name their statistics; these are the usual ones.
_BY_COUNT = {
    1: ('bn',),
    2: ('in', 'ln'),
    3: ('in', 'ln', 'bn'),
    4: ('in', 'ln', 'bn', 'gn'),
}

# A largest ratio that leads by less has not been chosen: 0.34 against 0.33.
UNDECIDED = 0.02


@dataclass(frozen=True)
class LayerRatios:
    """What one layer chose.

    Attributes:
        name: of the layer in its model.
        statistics: K names.
        mean, var: (G, K) ratios of G channel groups, adding up to 1.
    """

    name: str
    statistics: tuple[str, ...]
    mean: np.ndarray
    var: np.ndarray

    def average(self, kind: str) -> np.ndarray:
        """(K,) ratios of ``kind`` 'mean' or 'var', over the groups."""
        return getattr(self, kind).mean(0)

    def share(self, kind: str, statistic: str) -> float:
        """Average ratio of one statistic, 0 if the layer lacks it."""
        if statistic not in self.statistics:
            return 0.0
        return float(self.average(kind)[self.statistics.index(statistic)])

    def choice(self, kind: str) -> tuple[str, ...]:
        """Each group's statistic with the largest ratio."""
        best = getattr(self, kind).argmax(-1)
        return tuple(self.statistics[i] for i in best)

    def margin(self, kind: str) -> np.ndarray:
        """(G,) each group's largest ratio less the next; 1 if it is alone."""
        ratios = getattr(self, kind)
        if ratios.shape[-1] == 1:
            return np.ones(len(ratios))
        two = np.sort(ratios, -1)[:, -2:]
        return two[:, 1] - two[:, 0]

    def is_finite(self) -> bool:
        """Whether all ratios are numbers."""
        return all(np.isfinite(getattr(self, k)).all() for k in MOMENTS)

    def is_tied(self) -> bool:
        """Whether some group has no single largest ratio."""
        return any((self.margin(k) == 0).any() for k in MOMENTS)


def ratios_of_model(model: nn.Module) -> list[LayerRatios]:
    """Ratios of every SN layer, in the model's order.

    Raises:
        ValueError: if there is none.
    """
    layers = {n: m for n, m in model.named_modules() if has_ratios(m)}
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no SN layer; build it with '
            "norm_cfg=dict(type='SN')"
        )
    return ratio_layers(layers)


@torch.no_grad()
def ratio_layers(layers: Mapping[str, nn.Module]) -> list[LayerRatios]:
    """Ratios of named SN layers; one transfer for all, where on a GPU."""
    found = [m.ratios() for m in layers.values()]
    flat = torch.cat(
        [r[k].detach().float().reshape(-1) for r in found for k in MOMENTS]
    )
    numbers = iter(flat.cpu().double().numpy())
    made = []
    for (name, module), own in zip(layers.items(), found):
        shape = (-1, len(module.statistics))
        parts = [
            np.fromiter(numbers, float, count=own[k].numel()).reshape(shape)
            for k in MOMENTS
        ]
        made.append(LayerRatios(name, tuple(module.statistics), *parts))
    return made


def all_ratios_of_state(state: Mapping[str, Tensor]) -> list[LayerRatios]:
    """Ratios of every layer of a state dict that has some, in its order.

    Of SN, and of the layers that say in ``ratio_tensors`` where theirs are.

    Raises:
        ValueError: see :func:`ratios_of_state`.
    """
    found = _other_ratios(state)
    if not found or any(key.endswith(RATIO_PARAMETERS) for key in state):
        found += ratios_of_state(state)
    order = {key.rpartition('.')[0]: i for i, key in enumerate(state)}
    return sorted(found, key=lambda layer: order[layer.name])


def _other_ratios(state: Mapping[str, Tensor]) -> list[LayerRatios]:
    """Ratios of layers other than SN."""
    found = []
    for cls in _classes_with_ratios():
        first, *others = cls.ratio_tensors
        for key in state:
            name, _, leaf = key.rpartition('.')
            prefix = f'{name}.' if name else ''
            keys = [key, *(prefix + other for other in others)]
            if leaf != first or not all(k in state for k in keys):
                continue
            ratios = cls.ratios_of(*(state[k].detach().float() for k in keys))
            count = ratios['mean'].shape[-1]
            names = cls.statistics or _names_for(count)
            parts = [
                ratios[k].double().reshape(-1, count).cpu().numpy()
                for k in MOMENTS
            ]
            found.append(LayerRatios(name, tuple(names), *parts))
    return found


def _classes_with_ratios() -> list[type[RowNorm]]:
    """One class for each kind of ``ratio_tensors``."""
    found = {}
    for cls in MODELS.module_dict.values():
        if isinstance(cls, type) and issubclass(cls, RowNorm):
            if cls.ratio_tensors:
                found.setdefault(cls.ratio_tensors, cls)
    return list(found.values())


def _names_for(count: int) -> tuple[str, ...]:
    """The usual statistics for so many ratios."""
    unknown = tuple(f'statistic {i + 1}' for i in range(count))
    return _BY_COUNT.get(count, unknown)


def ratios_of_state(
    state: Mapping[str, Tensor],
    statistics: Mapping[str, tuple[str, ...]] | None = None,
) -> list[LayerRatios]:
    """Ratios of every SN layer of a state dict, in its order.

    Args:
        state: names as in OpenMMLab's models.
        statistics: of layers that do not have the usual ones for their
            number of ratios: ('in', 'ln') and ('in', 'ln', 'bn').

    Raises:
        ValueError: if there is no SN layer, or if one has ratios of means or
            of variances alone, or of unlike shapes.
    """
    means, variances = RATIO_PARAMETERS
    names = _layers_with(state, means)
    lonely = sorted(set(_layers_with(state, variances)) - set(names))
    if lonely:
        raise ValueError(
            f'{lonely[0]}.{variances} has no {means} beside it: the '
            'checkpoint is incomplete'
        )
    if not names:
        raise ValueError(
            'no SN layer (keys ending in mean_weight and var_weight): choose '
            'a checkpoint that was trained with SN; one of the public code '
            'is converted by tools/convert_checkpoint.py first'
        )
    return [_of_state(state, n, (statistics or {}).get(n)) for n in names]


def _layers_with(state: Mapping[str, Tensor], leaf: str) -> list[str]:
    """Layers that have a tensor of this name, in the state's order."""
    parts = [key.rpartition('.') for key in state]
    return [layer for layer, _, own in parts if own == leaf]


def _of_state(
    state: Mapping[str, Tensor], name: str, statistics: tuple | None
) -> LayerRatios:
    prefix = f'{name}.' if name else ''
    weights = [state.get(prefix + key) for key in RATIO_PARAMETERS]
    if weights[1] is None or weights[0].shape != weights[1].shape:
        shapes = [None if w is None else tuple(w.shape) for w in weights]
        raise ValueError(
            f'{name} has {RATIO_PARAMETERS[0]} of shape {shapes[0]}, but '
            f'{RATIO_PARAMETERS[1]} of shape {shapes[1]}: ratios of means and '
            'variances must match'
        )
    count = weights[0].shape[-1]
    if statistics is None:
        statistics = _names_for(count)
    if len(statistics) != count:
        raise ValueError(
            f'{name} has {count} ratios, but statistics={statistics}: name '
            'one statistic for each ratio'
        )
    parts = [
        _ratio(state, prefix, k, w).double().reshape(-1, count).cpu().numpy()
        for k, w in zip(MOMENTS, weights)
    ]
    return LayerRatios(name, tuple(statistics), *parts)


def _ratio(
    state: Mapping[str, Tensor], prefix: str, kind: str, weight: Tensor
) -> Tensor:
    """Softmax, or a sparse layer's SparsestMax."""
    weight = weight.detach().float()
    fixed = state.get(f'{prefix}{kind}_fixed')
    if fixed is None:
        return weight.softmax(-1)
    radius = state.get(f'{prefix}radius', torch.zeros(1)).float()
    return sparse_ratios(weight, fixed, radius)
