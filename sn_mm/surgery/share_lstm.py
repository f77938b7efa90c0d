# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""One LSTM for the HyperNormalization layers of each part of a model."""

from __future__ import annotations

from mmengine.logging import print_log
from torch import nn

from sn_mm.anatomy.components import (
    Components,
    component_of,
    in_components,
)
from sn_mm.anatomy.norms import Rules, find_norms
from sn_mm.layers.hyper import BHN, Chain

_CONTAINERS = (nn.ModuleList, nn.Sequential)


def share_lstm(
    model: nn.Module,
    components: Components = None,
    include: Rules = None,
    exclude: Rules = None,
) -> nn.Module:
    """Let BHN layers of a part share an LSTM and hand its state on, in place.

    A part is a list of modules inside a neck or a head, such as the lateral
    convolutions of an FPN, its output convolutions, or the convolutions of a
    box or mask head: its BHN layers of equal width run one after the other,
    the first one from zero. The first one has the LSTM's parameters, in
    state dicts too; those of the others' are given up. Call it before
    weights are loaded, and before the optimizer is built; in a config,
    ``model=dict(type='ShareLSTM', of=TYPE, ...)`` does.

    Backbones share by stages and need their own code for it:
    ``sn_mm.models.bhn``. That necks and heads share like this is ours: the
    poster has BHN in them and does not say how.

    Args:
        model: a detector, a segmentor, or a part; with BHN layers.
        components: only these ('neck', 'box_head', ...); by default all but
            the backbone. See :func:`sn_mm.convert_norm`.
        include, exclude: which layers, see :func:`sn_mm.find_norms`.

    Returns:
        The model. Which layers share was logged.

    Raises:
        ValueError: if there are no BHN layers that could share, for a rule
            or component that fits nothing, for layers that share already,
            and where layers of one part differ in ``reduction``; the model
            is as before.

    Example:
        >>> from mmcv.cnn import ConvModule
        >>> from torch import nn
        >>> import sn_mm
        >>> head = nn.Module()
        >>> head.convs = nn.Sequential(
        ...     *(ConvModule(8, 8, 3, norm_cfg=dict(type='BHN'))
        ...       for _ in range(4)))
        >>> before = sum(p.numel() for p in head.convs[1:].parameters())
        >>> head = sn_mm.share_lstm(head)
        >>> before - sum(p.numel() for p in head.convs[1:].parameters())
        684
    """
    norms = find_norms(model, include, exclude)
    chosen = in_components(model, list(norms), components)
    norms = {n: norms[n] for n in chosen if isinstance(norms[n], BHN)}
    if components is None:
        norms = {
            n: m
            for n, m in norms.items()
            if component_of(n, model) != 'backbone'
        }
    parts: dict[tuple[str, int], dict[str, BHN]] = {}
    for name, norm in norms.items():
        part = part_of(name, model)
        if part is not None:
            parts.setdefault((part, norm.num_features), {})[name] = norm
    parts = {key: own for key, own in parts.items() if len(own) > 1}
    _check(parts, norms, model)
    for own in parts.values():
        Chain(own)
    text = ', '.join(
        f'{len(own)} in {part}' for (part, _), own in parts.items()
    )
    print_log(f'share_lstm: {text}', logger='current')
    return model


def part_of(name: str, model: nn.Module) -> str | None:
    """The innermost list of modules of a module that is none, or None.

    Lists in lists are one part: that of FCOS' head has a list for each
    level.
    """
    found, parent, path = None, model, ''
    for step in name.split('.'):
        child = parent.get_submodule(step)
        path = f'{path}.{step}' if path else step
        if isinstance(child, _CONTAINERS) and not isinstance(
            parent, _CONTAINERS
        ):
            found = path
        parent = child
    return found


def _check(parts, norms, model) -> None:
    if not parts:
        has = (
            'BHN layers, but not two in one list' if norms else 'no BHN layer'
        )
        raise ValueError(
            f'{type(model).__name__} has {has} to share an LSTM (the backbone '
            "does by its type: BHNResNet); set norm_cfg=dict(type='BHN') in "
            'its neck and heads'
        )
    for (part, _), own in parts.items():
        if len({norm.reduction for norm in own.values()}) > 1:
            raise ValueError(
                f'the BHN layers of {part} differ in reduction: set the same '
                'one, or leave some out (exclude=...)'
            )
        for name, norm in own.items():
            if norm.chain is not None or norm.lead() is not norm:
                raise ValueError(
                    f'{name} shares an LSTM already: call share_lstm once, '
                    'with all components'
                )
