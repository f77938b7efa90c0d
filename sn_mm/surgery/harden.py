# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Soft ratios to hard ones, in models and in state dicts.

"Switchable Normalization for Learning-to-Normalize Deep Representation",
TPAMI 2019, Sec. 4.1.4 ("hard ratios") and Table III.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from sn_mm.anatomy.norms import Rules, find_norms, has_ratios
from sn_mm.anatomy.ratios import (
    UNDECIDED,
    LayerRatios,
    ratio_layers,
    ratios_of_state,
)
from sn_mm.layers.hard import RATIO_PARAMETERS, hard_logits, one_hot
from sn_mm.utils import join_names

FINETUNE = (
    'Hardening changes what the model computes: finetune it before it is '
    'tested or folded (configs/hard)'
)


def harden(
    model: nn.Module, include: Rules = None, exclude: Rules = None
) -> nn.Module:
    """Let each SN layer use one statistic for the mean and one for the var.

    The largest ratio becomes 1 and the others 0, for means and variances
    apart (and for each of the ratio groups); of equal ones the first is
    taken. The ratios are then buffers: they do not train or decay. State
    dicts keep their keys and shapes, and give an ordinary SN model the same
    outputs. Harden before the optimizer is built and the model is wrapped.

    The model then computes something else, the more the less a ratio leads:
    finetune it before it is tested or folded.

    Args:
        model: changed in place.
        include, exclude: which layers, see :func:`find_norms`.

    Returns:
        The model.

    Raises:
        ValueError: if there is no SN layer, or one whose ratios are no
            numbers; for a wrapped model. The model is as before.

    Warns:
        UserWarning: if a largest ratio leads by next to nothing.

    Example:
        >>> from sn_mm import SN
        >>> harden(SN(8, statistics=('bn',))).choices()
        {'mean': ('bn',), 'var': ('bn',)}
    """
    for module in model.modules():
        if is_model_wrapper(module):
            raise ValueError(
                f'the model is wrapped in {type(module).__name__}, which '
                'would go on to synchronize the ratios; harden it before'
            )
    layers = {
        name: m
        for name, m in find_norms(model, include, exclude).items()
        if has_ratios(m) and hasattr(m, 'harden_')
    }
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no SN layer to harden; build it with '
            "norm_cfg=dict(type='SN'), or call sn_mm.convert_norm(model, "
            "'SN'), and train it"
        )
    before = ratio_layers(layers)
    _check_finite(before)
    for layer in layers.values():
        layer.harden_()
    print_log('harden: ' + describe_choices(before), logger='current')
    unsure = undecided(before)
    if unsure:
        warnings.warn(f'harden: {unsure}', stacklevel=2)
    return model


def harden_state(
    state: Mapping[str, Tensor],
) -> tuple[OrderedDict[str, Tensor], list[LayerRatios]]:
    """A state dict with hard ratios instead of soft ones.

    Args:
        state: of a model with SN layers; left as it is.

    Returns:
        The new state dict, with the old one's order and metadata, and the
        layers with the ratios that they had.

    Raises:
        ValueError: as :func:`harden`, and for layers with ratios of means or
            of variances alone.
    """
    layers = ratios_of_state(state)
    _check_finite(layers)
    new = OrderedDict(state)
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        new._metadata = metadata
    for layer in layers:
        prefix = f'{layer.name}.' if layer.name else ''
        for name in RATIO_PARAMETERS:
            flag = prefix + name.replace('weight', 'fixed')
            old = state[prefix + name]
            if flag in state:  # a sparse layer keeps the ratios themselves
                new[flag] = state[flag].new_ones(state[flag].shape)
            new[prefix + name] = (
                one_hot(old) if flag in state else hard_logits(old)
            )
    return new, layers


def describe_choices(layers: Iterable[LayerRatios]) -> str:
    """What the layers choose, counted, and by how much they choose it.

    ``12 x in/bn`` for mean and var; a margin is what the largest ratio leads
    by.
    """
    counts: Counter[str] = Counter()
    layers = list(layers)
    for layer in layers:
        choices = {k: layer.choice(k) for k in ('mean', 'var')}
        pairs = set(zip(choices['mean'], choices['var']))
        for pair in sorted(pairs):
            counts['/'.join(pair)] += 1
    margins = sorted(map(_margin, layers))
    text = f'{len(layers)} layer(s), mean/var: ' + ', '.join(
        f'{n} x {pair}' for pair, n in counts.most_common()
    )
    return (
        f'{text}; the largest ratio leads by {margins[0]:.2f} to '
        f'{margins[-1]:.2f}, {margins[len(margins) // 2]:.2f} in the median '
        'layer'
    )


def undecided(layers: Iterable[LayerRatios]) -> str | None:
    """Which layers have not chosen what hardening takes for their choice.

    Those whose largest ratio leads by less than
    :data:`~sn_mm.anatomy.ratios.UNDECIDED`; None if there are none.
    """
    layers = list(layers)
    found = [x.name for x in layers if _margin(x) < UNDECIDED]
    if not found:
        return None
    tied = sum(x.is_tied() for x in layers)
    text = (
        f'{len(found)} of {len(layers)} layers have not decided: their '
        f'largest ratio leads by less than {UNDECIDED} '
        f'({join_names(found, 3)})'
    )
    if tied:
        text += (
            f'; in {tied} it leads by nothing (untrained?), and the first of '
            'the largest was taken'
        )
    return f'{text}. {FINETUNE}'


def _margin(layer: LayerRatios) -> float:
    """The smaller one of mean and var."""
    return min(float(layer.margin(k).min()) for k in ('mean', 'var'))


def _check_finite(layers: Iterable[LayerRatios]) -> None:
    for layer in layers:
        if not layer.is_finite():
            raise ValueError(
                f'the ratios of {layer.name} are not finite: the training '
                'diverged; take an earlier checkpoint'
            )
