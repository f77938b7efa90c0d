# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Weights of another norm, before they get into a model.

A file of a network with BN fits an SN model half: convolutions have the same
names, norms have not. Where they have (models of convert_norm, norms that are
called norm1), weight and bias fit, and what is missing are the ratios. Either
way the model computes something else than the file's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor, nn

from sn_mm.anatomy.norms import find_norms
from sn_mm.layers import RowNorm
from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

# What mmcv calls norm layers, with a number behind.
_NAMES = ('bn', 'gn', 'in', 'ln', 'sn', 'norm_layer')
_REFUSED: ContextVar[bool] = ContextVar('refused', default=False)
TO_SN = 'put bn2sn:// in front of the name of the checkpoint'
_TO_CONFIG = (
    "use the config that it was trained with: norm_cfg=dict(type='SN') at "
    "every part, or model=dict(type='ConvertNorm', ...) where convert_norm "
    'made the model'
)


class _Found(NamedTuple):
    """A norm of the model, and what the file has in its place."""

    name: str
    kind: str
    in_file: str
    kind_in_file: str


def check_norms(
    model: nn.Module, state: Mapping[str, Tensor], refuse: bool | None = None
) -> None:
    """Say so where a state dict is of a network with other norms.

    Args:
        model: that the state dict is for.
        state: under the names that it will be loaded with.
        refuse: raise for names that fit half, too. Default: warn.

    Raises:
        CheckpointError: if layers would get the weights of another norm
            under their own names.
    """
    same, half = _compare(model, state)
    if same:
        raise CheckpointError(_sentence(same, fits=True))
    if half:
        text = _sentence(half, fits=False)
        if _REFUSED.get() if refuse is None else refuse:
            raise CheckpointError(text)
        warnings.warn(text, stacklevel=4)


def other_norms(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The sentence about a state dict of other norms; None if all fit."""
    same, half = _compare(model, state)
    return _sentence(same or half, fits=bool(same)) if same or half else None


@contextmanager
def other_norms_refused():
    """Within, what :func:`check_norms` warns of is an error.

    For testing, where half a model gives numbers without a meaning.
    """
    token = _REFUSED.set(True)
    try:
        yield
    finally:
        _REFUSED.reset(token)


def _compare(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[list[_Found], list[_Found]]:
    in_file = _norms_of(state)
    norms = find_norms(model)
    names = {*_NAMES, *(getattr(m, '_abbr_', 'bn') for m in norms.values())}
    pattern = re.compile(rf'(.*\.|)({"|".join(sorted(names))})(\d*)')
    places = {}
    for name in in_file:
        match = pattern.fullmatch(name)
        if match:
            places.setdefault((match[1], match[3]), name)
    same, half = [], []
    for name, module in norms.items():
        kind = 'SN' if hasattr(module, 'mean_weight') else 'other'
        match = pattern.fullmatch(name)
        place = places.get((match[1], match[3])) if match else None
        other = name if name in in_file else place
        if other is None:
            continue
        found = _Found(name, kind, other, in_file[other])
        if 'SN' not in (found.kind, found.kind_in_file):
            continue
        if other != name:
            half.append(found)
        elif kind != found.kind_in_file and not _is_of_family(module):
            same.append(found)
    return same, half


def _is_of_family(module: nn.Module) -> bool:
    """Ours without ratios: whose file it is cannot be told."""
    return isinstance(module, RowNorm) and not hasattr(module, 'mean_weight')


def _norms_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Norms in a state dict: (C,) weights and biases of one name."""
    found = {}
    for key, value in state.items():
        layer, _, leaf = key.rpartition('.')
        if leaf != 'weight' or not isinstance(value, Tensor):
            continue
        bias = state.get(f'{layer}.bias')
        if bias is None or bias.shape != value.shape:
            continue
        if f'{layer}.mean_weight' in state:
            found[layer] = 'SN'
        elif value.dim() == 1:
            running = f'{layer}.running_mean' in state
            found[layer] = 'BN' if running else 'other'
    return found


def _sentence(found: Iterable[_Found], fits: bool) -> str:
    found = list(found)
    first = found[0]
    layers = join_names([f.name for f in found], 3)
    theirs = join_names([f.in_file for f in found], 3)
    if first.kind == first.kind_in_file:
        return (
            f'the SN layers of the file have other names ({theirs}) than '
            f"the model's ({layers}) and would be left out: {_TO_CONFIG}"
        )
    if first.kind_in_file == 'SN':
        return (
            f'the file has SN layers ({theirs}), the model of this config '
            f'another norm in their place ({layers}): {_TO_CONFIG}'
        )
    norm = 'batch norms' if first.kind_in_file == 'BN' else 'another norm'
    text = (
        f'the file has {norm} ({theirs}) where the model has SN ({layers}); '
    )
    if fits:
        text += 'SN would take their weights over without ratios: '
    else:
        text += 'all but the norms would be loaded: '
    if first.kind_in_file == 'BN':
        return text + (
            f'{TO_SN}, which makes SN of them, or use the config that it was '
            'trained with'
        )
    return text + (
        'use the config that it was trained with, or start from weights of '
        'SN (sn://) or of BN (bn2sn://)'
    )
