# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Soft ratios to hard ones, in models and in state dicts.

"Switchable Normalization for Learning-to-Normalize Deep Representation",
TPAMI 2019, Sec. 4.1.4 ("hard ratios") and Table III.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from sn_mm.anatomy.norms import Rules, find_norms
from sn_mm.anatomy.ratios import LayerRatios, ratio_layers, ratios_of_state
from sn_mm.layers.hard import RATIOS, hard_logits, one_hot
from sn_mm.layers.switchable import SwitchNorm


def harden(
    model: nn.Module, include: Rules = None, exclude: Rules = None
) -> nn.Module:
    """Let each SN layer use one statistic for the mean and one for the var.

    The largest ratio becomes 1 and the others 0, for means and variances
    apart (and for each of the ratio groups); of equal ones the first is
    taken. The ratios are then buffers: they do not train or decay. State
    dicts keep their keys and shapes, and give an ordinary SN model the same
    outputs. Harden before the optimizer is built and the model is wrapped.

    Args:
        model: changed in place.
        include, exclude: which layers, see :func:`find_norms`.

    Returns:
        The model.

    Raises:
        ValueError: if there is no SN layer, or one whose ratios are no
            numbers; for a wrapped model. The model is as before.

    Example:
        >>> from sn_mm import SN
        >>> harden(SN(8)).choices()
        {'mean': ('in',), 'var': ('in',)}
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
        if isinstance(m, SwitchNorm)
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
    print_log('harden: ' + describe(before), logger='current')
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
        for name in RATIOS:
            flag = prefix + name.replace('weight', 'fixed')
            old = state[prefix + name]
            if flag in state:  # a sparse layer keeps the ratios themselves
                new[flag] = state[flag].new_ones(state[flag].shape)
            new[prefix + name] = (
                one_hot(old) if flag in state else hard_logits(old)
            )
    return new, layers


def describe(layers: Iterable[LayerRatios]) -> str:
    """What the layers choose, counted: ``12 x in/bn`` for mean and var."""
    counts: Counter[str] = Counter()
    ties = 0
    layers = list(layers)
    for layer in layers:
        choices = {k: layer.choice(k) for k in ('mean', 'var')}
        pairs = set(zip(choices['mean'], choices['var']))
        for pair in sorted(pairs):
            counts['/'.join(pair)] += 1
        ties += layer.is_tied()
    text = f'{len(layers)} layer(s), mean/var: ' + ', '.join(
        f'{n} x {pair}' for pair, n in counts.most_common()
    )
    if ties:
        text += (
            f'; {ties} of them had no largest ratio (untrained?), and took '
            'the first of the largest'
        )
    return text


def _check_finite(layers: Iterable[LayerRatios]) -> None:
    for layer in layers:
        if not layer.is_finite():
            raise ValueError(
                f'the ratios of {layer.name} are not finite: the training '
                'diverged; take an earlier checkpoint'
            )
