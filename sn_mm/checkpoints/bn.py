# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of BN networks as starting points of SN networks."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .convert import check_finite
from .report import Report, Used

_RUNNING = ('running_mean', 'running_var')
RATIOS = ('initial', 'bn')
# softmax(0, 0, 20) is BN alone to 4e-9, below float32's resolution
_BN_LOGIT = 20.0


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


def sn_name(key: str) -> str:
    """``bn``, ``bn1``, ... as mmcv names SN layers: ``sn``, ``sn1``, ..."""
    return re.sub(r'(?<![^.])bn(\d*)(?=\.)', r'sn\1', key)


def same_name(key: str) -> str:
    """For models that call their SN layers bn1, as torchvision's do."""
    return key


def bn_to_sn(
    state: Mapping[str, Tensor],
    report: Report,
    ratios: str = 'initial',
    name: Callable[[str], str] = sn_name,
    wanted: Callable[[str], Ratios] = lambda layer: Ratios(),
) -> OrderedDict[str, Tensor]:
    """Give every BN layer the ratios that make it SN.

    Affine parameters and running statistics stay. In eval, with ``ratios=
    'bn'``, the network computes what it computed with BN.

    Args:
        state: of a network with BN.
        report: filled with what happens to every key.
        ratios: 'initial' (all equal) or 'bn' (BN alone; the logits are then
            so far apart that training hardly moves them).
        name: new key of an old one.
        wanted: statistics and groups of the layer of that (new) name.

    Raises:
        CheckpointError: no BN in it, NaN, or ``ratios='bn'`` where a layer
            has no BN statistic.
    """
    if ratios not in RATIOS:
        raise CheckpointError(
            f'ratios={ratios!r}; choose from {", ".join(RATIOS)}'
        )
    layers = set(bn_layers(state))
    if not layers:
        already = any(k.endswith('.mean_weight') for k in state)
        raise CheckpointError(
            'no batch norm in this file (weight, bias, running_mean, '
            'running_var of one layer): '
            + (
                'it has SN already, use sn:// or the file itself'
                if already
                else f'keys are {join_names(state)}'
            )
        )
    out: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        check_finite(key, value)
        layer, _, leaf = key.rpartition('.')
        new = name(key)
        out[new] = value
        change = 'as it is'
        if layer in layers and leaf == 'bias':
            target = new.rpartition('.')[0]
            logits = _logits(wanted(target), ratios, target)
            out[f'{target}.mean_weight'] = logits
            out[f'{target}.var_weight'] = logits.clone()
            # files older than torch 0.4.1 do not count batches
            out.setdefault(f'{target}.num_batches_tracked', torch.tensor(0))
            change = f'adds ratios: {_start(wanted(target), ratios)}'
        report.used.append(Used(key, tuple(value.shape), new, change))
    return out


def _start(wanted: Ratios, ratios: str) -> str:
    """What the ratios of one layer start with, out of ``RATIOS``."""
    alone = wanted.frozen and 'bn' in wanted.statistics
    return 'bn' if alone else ratios


def _logits(wanted: Ratios, ratios: str, layer: str) -> Tensor:
    count = len(wanted.statistics)
    shape = (count,) if wanted.groups == 1 else (wanted.groups, count)
    if _start(wanted, ratios) == 'initial':
        return torch.ones(shape)
    if 'bn' not in wanted.statistics:
        raise CheckpointError(
            f'ratios=bn, but {layer} has statistics={wanted.statistics}: '
            "include 'bn' in norm_cfg, or leave ratios=bn out"
        )
    logits = torch.zeros(shape)
    logits[..., list(wanted.statistics).index('bn')] = _BN_LOGIT
    return logits
