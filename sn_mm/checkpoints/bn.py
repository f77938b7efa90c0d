# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of BN networks as starting points of SN networks."""

from __future__ import annotations

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor, nn

from sn_mm.anatomy.norms import sets_ratios
from sn_mm.layers import RowNorm
from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.layers.state import ONE_FOR_EACH_CHANNEL
from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .convert import check_finite
from .report import Report, Used

# softmax(0, 0, 100) is BN alone to 4e-44: instance variances of any size
# vanish beside it
_BN_LOGIT = 100.0
EQUAL = 'equal'
# how far from 0 and 1 the statistics of a folded layer may be
_FOLDED = 1e-4


@dataclass(frozen=True)
class Ratios:
    """What the ratio logits of one layer are to look like.

    Attributes:
        statistics: of the layer, in the order of its ratios.
        groups: rows of logits; 1 gives shape (K,).
        frozen: the layer cannot learn, so that BN, which the file's layer
            is, is what it takes alone.
    """

    statistics: Sequence[str] = ('in', 'ln', 'bn')
    groups: int = 1
    frozen: bool = False

    @classmethod
    def of(cls, layer: nn.Module, frozen: bool) -> Ratios:
        """Of a layer of a model that has ratios."""
        return cls(layer.statistics, layer.ratio_groups, frozen)

    def share(self, asked: float | None) -> float | None:
        """BN's share that the layer starts with; None for equal ones."""
        return 1.0 if self.frozen and 'bn' in self.statistics else asked


def share_of_bn(ratios: str) -> float | None:
    """What ``?ratios=`` asks for: BN's share, or None for equal ratios.

    Args:
        ratios: 'equal' or 'initial'; 'bn', which is 1; or a share.

    Raises:
        CheckpointError: something else.
    """
    if ratios in (EQUAL, 'initial'):
        return None
    if ratios == 'bn':
        return 1.0
    try:
        share = float(ratios)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise CheckpointError(
            f'ratios={ratios!r}; choose from initial, bn, equal (as initial) '
            'or a share of BN between 0 and 1, such as 0.5'
        )
    return share


def logits(wanted: Ratios, share: float | None, layer: str) -> Tensor:
    """Parameters of the ratios, (K,) or (G, K), as SN keeps them.

    Raises:
        CheckpointError: a share of BN for a layer without BN's statistics.
    """
    count = len(wanted.statistics)
    shape = (count,) if wanted.groups == 1 else (wanted.groups, count)
    share = wanted.share(share)
    if share is None or share * count == 1:
        return torch.ones(shape)
    if 'bn' not in wanted.statistics:
        raise CheckpointError(
            f'ratios={"bn" if share == 1 else share}, but {layer} has '
            f'statistics={wanted.statistics}: include '
            "'bn' in norm_cfg, or leave ratios out"
        )
    bn = list(wanted.statistics).index('bn')
    odds = share * (count - 1) / (1 - share) if share < 1 else math.inf
    made = torch.zeros(shape)
    made[..., bn] = torch.tensor(odds).log().clamp(-_BN_LOGIT, _BN_LOGIT)
    return made


def in_words(share: float | None) -> str:
    """A start of ratios, for accounts."""
    if share is None:
        return EQUAL
    return 'bn' if share == 1 else f'{share:g} of bn'


def is_folded(layer: Mapping[str, Tensor]) -> bool:
    """Whether statistics are 0 and 1 under an affine that was trained.

    So do files look whose means and variances were multiplied into the
    affine parameters, as those of Caffe's networks. An untrained layer, all
    of whose weights are one number and all biases 0, is none.
    """
    mean, var = layer['running_mean'].float(), layer['running_var'].float()
    if 'weight' not in layer:
        return False
    if mean.abs().max() > _FOLDED or (var - 1).abs().max() > _FOLDED:
        return False
    weight, bias = layer['weight'], layer['bias']
    return bool((weight != weight[0]).any()) or bool((bias != 0).any())


def bn_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the affine batch norms, by evidence: four (C,) tensors."""
    layers = []
    for key, value in state.items():
        layer, _, leaf = key.rpartition('.')
        if leaf != 'running_mean':
            continue
        parts = [
            state.get(f'{layer}.{n}')
            for n in ('weight', 'bias', 'running_var')
        ]
        if all(p is not None and p.shape == value.shape for p in parts):
            layers.append(layer)
    return layers


def take_over(
    layer: nn.Module,
    tensors: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    share: float | None,
    frozen: bool,
    name: str,
) -> dict[str, Tensor]:
    """State of a model's norm out of a batch norm's.

    Affine parameters and running statistics stay, wherever the layer has
    such; what it has besides starts as it is, but for the ratios of SN.

    Args:
        layer: the model's.
        tensors: its present state.
        given: state of the batch norm.
        share: BN's, of the ratios; None for equal ones.
        frozen: the layer will not learn.
        name: of the layer.

    Raises:
        CheckpointError: see :func:`logits`.
    """
    channels = given['running_mean']
    full = {
        'weight': torch.ones_like(channels),
        'bias': torch.zeros_like(channels),
        # files older than torch 0.4.1 do not count batches
        'num_batches_tracked': torch.tensor(0),
        **given,
    }
    made = {
        n: full[n]
        for n, value in tensors.items()
        if n in full and full[n].shape == value.shape
    }
    if isinstance(layer, RowNorm):
        made.update(_translated(layer, full))
    if share is not None and not _may_be_bn(layer):
        raise CheckpointError(
            f'ratios={in_words(share)}, but {name} is '
            f'{type(layer).__name__}, which has no ratios that can be set: '
            'leave ratios out'
        )
    if sets_ratios(layer) and RATIO_PARAMETERS[0] in tensors:
        for moment in RATIO_PARAMETERS:
            made[moment] = logits(Ratios.of(layer, frozen), share, name)
    return made


@torch.no_grad()
def _translated(
    layer: RowNorm, given: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What a layer keeps otherwise than BN does, and where."""
    blank = copy.deepcopy(layer)
    state = blank.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            value.fill_(float('nan'))  # what is not taken stays so
        elif name.endswith('num_batches_tracked'):
            value.copy_(given['num_batches_tracked'])
    blank.take_batch_norm_(
        {n: t for n, t in given.items() if n in ONE_FOR_EACH_CHANNEL}
    )
    return {
        name: value
        for name, value in state.items()
        if name.endswith('num_batches_tracked')
        or value.is_floating_point()
        and not value.isnan().any()
    }


def sn_name(key: str) -> str:
    """``bn``, ``bn1``, ... as mmcv names SN layers: ``sn``, ``sn1``, ..."""
    return re.sub(r'(?<![^.])bn(\d*)(?=\.)', r'sn\1', key)


def _may_be_bn(layer: nn.Module) -> bool:
    """Whether a layer has ratios, or is a batch norm as it is."""
    return sets_ratios(layer) or (
        not isinstance(layer, RowNorm)
        and getattr(layer, 'running_mean', None) is not None
    )


def bn_to_sn(
    state: Mapping[str, Tensor],
    report: Report,
    ratios: str = EQUAL,
    name: Callable[[str], str] = sn_name,
) -> OrderedDict[str, Tensor]:
    """Give every BN layer the ratios that make it SN, without a model.

    Affine parameters and running statistics stay. In eval, with ``ratios=
    'bn'``, the network computes what it computed with BN.

    Args:
        state: of a network with BN.
        report: filled with what happens to every key.
        ratios: see :func:`share_of_bn`. With 'bn' the logits are so far
            apart that training hardly moves them.
        name: new key of an old one.

    Raises:
        CheckpointError: no BN in it, NaN, folded BN with other ratios.
    """
    share = share_of_bn(ratios)
    layers = set(bn_layers(state))
    if not layers:
        raise CheckpointError(without_bn(state))
    if share != 1:
        refuse_folded(n for n in layers if is_folded(_entries_of(n, state)))
    out: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        check_finite(key, value)
        layer, _, leaf = key.rpartition('.')
        new = name(key)
        out[new] = value
        change = 'as it is'
        if layer in layers and leaf == 'bias':
            target = new.rpartition('.')[0]
            out[f'{target}.mean_weight'] = logits(Ratios(), share, target)
            out[f'{target}.var_weight'] = logits(Ratios(), share, target)
            # files older than torch 0.4.1 do not count batches
            out.setdefault(f'{target}.num_batches_tracked', torch.tensor(0))
            change = f'adds ratios: {in_words(share)}'
        report.used.append(Used(key, tuple(value.shape), new, change))
    return out


def _entries_of(layer: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = ('weight', 'bias', 'running_mean', 'running_var')
    return {n: state[f'{layer}.{n}'] for n in names}


def refuse_folded(layers: Iterable[str]) -> None:
    """Raise CheckpointError if there is any."""
    layers = sorted(layers)
    if layers:
        raise CheckpointError(
            f'{len(layers)} batch norms are folded ({join_names(layers, 3)}): '
            'means are 0 and variances 1 under trained affine parameters, '
            'which fit no other statistics, so that SN would start from '
            'noise; transplant the network (tools/transplant.py takes folded '
            'BN as a teacher), or write ?ratios=bn, which is exact'
        )


def without_bn(state: Iterable[str]) -> str:
    """The sentence for a file that has none."""
    state = list(state)
    if any(key.endswith('mean_weight') for key in state):
        found = 'it has SN already, use sn:// or the file itself'
    else:
        found = f'keys are {join_names(state)}'
    return (
        'no batch norm in this file (weight, bias, running_mean, running_var '
        f'of one layer): {found}'
    )
