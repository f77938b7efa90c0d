# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Ratios as state dicts keep them: logits of a softmax, or sparse.

The same ``mean_weight`` means other ratios to SN than to SSN, whose state has
flags and a radius beside it. Both kinds of layers read both.
"""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor

from sn_mm.functional.sparsestmax import sparsestmax

from .hard import NEVER, one_hot

MOMENTS = ('mean', 'var')


def sparse_ratios(weight: Tensor, fixed: Tensor, radius: Tensor) -> Tensor:
    """Points of the simplex, whatever the numbers are.

    A choice is the largest of the weight: optimizers, averages and
    conversions may move the weight of a choice, but not past another.
    Averages of models average flags too: an average is chosen where most of
    what went into it was.

    Args:
        weight: (..., K); (G, K) for G groups of channels.
        fixed: flags of choices, one for each row of ``weight``.
        radius: of SparsestMax, one number.
    """
    return torch.where(
        is_set(fixed, weight),
        one_hot(weight.detach()),
        sparsestmax(weight, radius),
    )


def is_set(fixed: Tensor, weight: Tensor) -> Tensor:
    """Flags of choices as bools that broadcast over ``weight``."""
    return (fixed > 0.5).reshape(*weight.shape[:-1], 1)


def is_choice(ratio: Tensor) -> Tensor:
    """Where ratios (..., K) are one-hot; a single statistic is no choice."""
    if ratio.shape[-1] == 1:
        return torch.ones_like(ratio[..., 0])
    return ratio.amax(-1) - ratio.amin(-1) >= 1


def logits_of(ratio: Tensor) -> Tensor:
    """What the softmax of is ``ratio``."""
    return ratio.log().clamp(min=NEVER)


def sparse_to_logits(state: MutableMapping[str, Tensor], prefix: str) -> None:
    """What a sparse layer saved, in place, as SN keeps it.

    Args:
        prefix: of the layer's keys. Nothing happens to the state of SN.
    """
    radius = state.pop(f'{prefix}radius', None)
    for moment in MOMENTS:
        fixed = state.pop(f'{prefix}{moment}_fixed', None)
        weight = state.get(f'{prefix}{moment}_weight')
        if fixed is None or radius is None or weight is None:
            continue
        ratio = sparse_ratios(weight.float(), fixed, radius.float())
        state[f'{prefix}{moment}_weight'] = logits_of(ratio).to(weight.dtype)


def logits_to_sparse(state: MutableMapping[str, Tensor], prefix: str) -> None:
    """What SN saved, in place, as a sparse layer keeps it.

    Its ratios are what SparsestMax gives of themselves at radius 0.

    Args:
        prefix: of the layer's keys. Nothing happens to a sparse state.
    """
    weights = {m: state.get(f'{prefix}{m}_weight') for m in MOMENTS}
    own = (f'{prefix}radius', *(f'{prefix}{m}_fixed' for m in MOMENTS))
    if any(key in state for key in own):
        return
    for moment, weight in weights.items():
        if weight is None or weight.dim() == 0:
            continue
        ratio = weight.softmax(-1)
        state[f'{prefix}{moment}_weight'] = ratio
        flags = is_choice(ratio).to(weight.dtype).reshape(-1)
        state[f'{prefix}{moment}_fixed'] = flags
        state[f'{prefix}radius'] = weight.new_zeros(1)
