# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The ratios of SN layers, out of models and out of state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sn_mm.functional.sparsestmax import sparsestmax
from sn_mm.layers.hard import RATIOS

from .norms import has_ratios

KINDS = ('mean', 'var')
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
        return all(np.isfinite(getattr(self, k)).all() for k in KINDS)

    def is_hard(self) -> bool:
        """Whether every ratio is 0 or 1."""
        return all((getattr(self, k).max(-1) == 1).all() for k in KINDS)

    def is_tied(self) -> bool:
        """Whether some group has no single largest ratio."""
        return any((self.margin(k) == 0).any() for k in KINDS)


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
        [r[k].detach().float().reshape(-1) for r in found for k in KINDS]
    )
    numbers = iter(flat.cpu().double().numpy())
    made = []
    for (name, module), own in zip(layers.items(), found):
        shape = (-1, len(module.statistics))
        parts = [
            np.fromiter(numbers, float, count=own[k].numel()).reshape(shape)
            for k in KINDS
        ]
        made.append(LayerRatios(name, tuple(module.statistics), *parts))
    return made


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
    names = [
        key[: -len(RATIOS[0])].rstrip('.')
        for key in state
        if key == RATIOS[0] or key.endswith('.' + RATIOS[0])
    ]
    lonely = [
        key
        for key in state
        if key.endswith(RATIOS[1])
        and key[: -len(RATIOS[1])].rstrip('.') not in names
    ]
    if lonely:
        raise ValueError(
            f'{lonely[0]} has no {RATIOS[0]} beside it: the checkpoint is '
            'incomplete'
        )
    if not names:
        raise ValueError(
            'no SN layer (keys ending in mean_weight and var_weight): choose '
            'a checkpoint that was trained with SN; one of the public code '
            'is converted by tools/convert_checkpoint.py first'
        )
    return [_of_state(state, n, (statistics or {}).get(n)) for n in names]


def _of_state(
    state: Mapping[str, Tensor], name: str, statistics: tuple | None
) -> LayerRatios:
    prefix = f'{name}.' if name else ''
    weights = [state.get(prefix + key) for key in RATIOS]
    if weights[1] is None or weights[0].shape != weights[1].shape:
        shapes = [None if w is None else tuple(w.shape) for w in weights]
        raise ValueError(
            f'{name} has {RATIOS[0]} of shape {shapes[0]}, but {RATIOS[1]} '
            f'of shape {shapes[1]}: ratios of means and variances must match'
        )
    count = weights[0].shape[-1]
    if statistics is None:
        unknown = tuple(f'statistic {i + 1}' for i in range(count))
        statistics = _BY_COUNT.get(count, unknown)
    if len(statistics) != count:
        raise ValueError(
            f'{name} has {count} ratios, but statistics={statistics}: name '
            'one statistic for each ratio'
        )
    parts = [
        _ratio(state, prefix, k, w).double().reshape(-1, count).cpu().numpy()
        for k, w in zip(KINDS, weights)
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
    chosen = fixed.reshape(-1, 1) > 0 if weight.dim() > 1 else fixed > 0
    return torch.where(chosen, weight, sparsestmax(weight, radius))
