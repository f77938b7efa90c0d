# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Swap the norm layers of a model that is already built."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import MODELS
from torch import nn

from sn_mm.anatomy.components import Components, select
from sn_mm.anatomy.norms import (
    Rules,
    dimension,
    find_norms,
    has_batch_statistics,
    is_plain_norm,
    num_channels,
)
from sn_mm.layers.switchable import SwitchNorm

# Arguments that the new layer takes from the old one, where both have them.
_SETTINGS = (
    'eps',
    'affine',
    'statistics',
    'unbiased',
    'bn_eval',
    'num_groups',
    'ratio_groups',
    'hard_ratios',
    'process_group',
    'sync_group',
)
# ... and those about running statistics, if the old one has such.
_RUNNING_SETTINGS = ('momentum', 'track_running_stats')
_RATIOS = ('mean_weight', 'var_weight')
_HOOKS = (
    '_forward_hooks',
    '_forward_hooks_with_kwargs',
    '_forward_hooks_always_called',
    '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
    '_backward_hooks',
    '_backward_pre_hooks',
    '_is_full_backward_hook',
)


def convert_norm(
    model: nn.Module,
    cfg: dict | str,
    include: Rules = None,
    exclude: Rules = None,
    components: Components = None,
) -> nn.Module:
    """Turn norm layers into another kind, in place.

    Takes batch norms (synchronized ones too), instance norms, group norms,
    layer norms over channels, and SN layers of all kinds; gives any kind of
    norm that a config can name. Convert before wrapping the model in
    DistributedDataParallel and before building the optimizer: it cannot know
    new ratios.

    The new layers have the names of the old ones in their parents, and the
    very parameters and running statistics: affine ones, and between SN
    layers the ratios. They also keep ``eps``, ``momentum``, ``affine``,
    ``num_groups`` and all that SN layers have in common, unless ``cfg`` says
    otherwise; mode, device, dtype and hooks; frozen layers stay frozen, and
    layers in several places stay shared. 'SN' on a one- or three-dimensional
    layer is SN1d or SN3d. Others, such as LayerNorm over tokens, are left
    alone. What was done is logged.

    Args:
        model: changed in place.
        cfg: ``norm_cfg`` of a config, ``dict(type='SyncSN')``, or just its
            type. ``requires_grad=False`` freezes; True leaves it as it was.
        include, exclude: which layers, see :func:`find_norms`.
        components: only those of these components of a detector or
            segmentor: 'backbone', 'neck', 'rpn_head', 'shared_head',
            'box_head', 'mask_head', 'decode_head', 'auxiliary_head'; one or
            several.

    Returns:
        The model, or the new layer where ``model`` is itself a norm.

    Raises:
        KeyError: if there is no such type of norm.
        TypeError, ValueError: for a ``cfg`` that the new type does not take,
            or that does not fit a layer; for a model that is already
            wrapped; for a rule or component that fits nothing. The model is
            as before.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> type(convert_norm(model, 'SN')[1]).__name__
        'SN2d'
    """
    cfg = _checked(cfg)
    _check_unwrapped(model)
    norms = find_norms(model, include, exclude)
    chosen = select(model, list(norms), components)
    norms = {name: norms[name] for name in chosen}
    targets = {name: _target(m, cfg) for name, m in norms.items()}
    # All are built before the first is replaced: errors change nothing.
    built = {
        name: _build(norms[name], target, model)
        for name, target in targets.items()
        if target is not None
    }
    replaced = {}
    for name, (layer, kept) in built.items():
        _hand_over(norms[name], layer, kept, cfg.get('requires_grad', True))
        replaced[norms[name]] = layer
    model = _replace(model, replaced)
    _report(norms, replaced)
    return model


def _checked(cfg: dict | str) -> dict:
    if isinstance(cfg, str):
        cfg = dict(type=cfg)
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise TypeError(
            f"cfg must be a norm_cfg, such as dict(type='SN'), or its type, "
            f'got {cfg!r}'
        )
    return dict(cfg)


def _check_unwrapped(model: nn.Module) -> None:
    for module in model.modules():
        if is_model_wrapper(module):
            raise ValueError(
                f'the model is wrapped in {type(module).__name__}, which '
                'would not synchronize new parameters; convert it before'
            )


def _norm_class(kind: Any) -> type | None:
    if inspect.isclass(kind):
        return kind
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _target(old: nn.Module, cfg: dict) -> dict | None:
    """``cfg`` for the place of ``old``; None if it has none there."""
    kind, number = cfg['type'], dimension(type(old))
    if isinstance(kind, str) and number in (1, 3):
        sibling = f'{kind}{number}d'
        kind = sibling if _norm_class(sibling) else kind
    cls = _norm_class(kind)
    if cls is None:
        raise KeyError(
            f'norm type {kind!r} is not registered; sn_mm has SN, SN1d, SN2d, '
            'SN3d and SyncSN, mmcv has BN, SyncBN, GN and IN'
        )
    if issubclass(cls, nn.LayerNorm) and cls.forward is nn.LayerNorm.forward:
        raise ValueError(
            f'{kind!r} normalizes the last axes of its input, not (N, C, '
            "*spatial); dict(type='GN', num_groups=1) is the layer norm there"
        )
    fits = number is None or dimension(cls) in (None, number)
    if not (fits and is_plain_norm(old)):
        return None
    return {**_settings(old, cls, cfg), **cfg, 'type': kind}


def _settings(old: nn.Module, cls: type, cfg: dict) -> dict:
    """Arguments of a new ``cls`` that come from ``old``."""
    taken = _arguments(cls)
    names = _SETTINGS
    if has_batch_statistics(old):
        names += _RUNNING_SETTINGS
    settings = {
        name: getattr(old, name)
        for name in names
        if name in taken and hasattr(old, name)
    }
    if settings.get('process_group') is not None and 'sync_group' in cfg:
        del settings['process_group']
    if 'process_group' in cfg:
        settings.pop('sync_group', None)
    if 'num_groups' in taken and 'num_groups' not in {**settings, **cfg}:
        if taken['num_groups'].default is inspect.Parameter.empty:
            raise ValueError(f'{cls.__name__} needs num_groups in its cfg')
    return settings


def _arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of a norm's constructor; SyncSN passes SN's on."""
    found = dict(inspect.signature(cls.__init__).parameters)
    if issubclass(cls, SwitchNorm):
        base = inspect.signature(SwitchNorm.__init__).parameters
        found = {**base, **found}
    return found


def _build(
    old: nn.Module, target: dict, model: nn.Module
) -> tuple[nn.Module, list[str]]:
    """A new layer like the old, and the names of the state that it keeps."""
    _, new = build_norm_layer(target, num_channels(old))
    like = _first_tensor(old)
    if like is None:
        like = _first_tensor(model)
    if like is not None:
        new.to(like.device, like.dtype)
    state, own = _state(old), _state(new)
    kept = [
        name
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    ]
    if not _same_ratios(old, new):
        kept = [name for name in kept if name not in _RATIOS]
    return new, kept


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    both = {**module._parameters, **module._buffers}
    return {name: value for name, value in both.items() if value is not None}


def _first_tensor(module: nn.Module) -> torch.Tensor | None:
    tensors = (*module.parameters(), *module.buffers())
    return next((t for t in tensors if t.is_floating_point()), None)


def _same_ratios(old: nn.Module, new: nn.Module) -> bool:
    return (
        isinstance(old, SwitchNorm)
        and isinstance(new, SwitchNorm)
        and old.statistics == new.statistics
    )


def _hand_over(
    old: nn.Module, new: nn.Module, kept: list[str], trains: bool
) -> None:
    """Give ``new`` the state, the hooks and the mode of ``old``.

    The tensors themselves: what else refers to them, an optimizer or a layer
    that shares them, goes on to do so. The same holds for handles of hooks.
    """
    parameters = list(old.parameters())
    frozen = parameters and not any(p.requires_grad for p in parameters)
    for name in kept:
        own = new._parameters if name in new._parameters else new._buffers
        value = _state(old)[name]
        is_parameter = isinstance(value, nn.Parameter)
        if is_parameter == (own is new._parameters):
            own[name] = value
        else:
            own[name].data.copy_(value)
    for parameter in new.parameters():
        if frozen or not trains:
            parameter.requires_grad_(False)
    for name in _HOOKS:
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))
    if getattr(new, 'hard_ratios', False) and set(_RATIOS) <= set(kept):
        new.harden_()
    new.train(old.training)


def _replace(
    model: nn.Module, replaced: dict[nn.Module, nn.Module]
) -> nn.Module:
    for parent in list(model.modules()):
        changed = False
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
                changed = True
        # mmcv's ConvModule may fuse a batch norm, and asks only when told to
        if changed and getattr(parent, 'efficient_conv_bn_eval_forward', None):
            parent.turn_on_efficient_conv_bn_eval(True)
    return replaced.get(model, model)


def _report(
    norms: dict[str, nn.Module], replaced: dict[nn.Module, nn.Module]
) -> None:
    done = Counter(
        f'{type(old).__name__} -> {type(new).__name__}'
        for old, new in replaced.items()
    )
    left = [
        f'{name} ({type(m).__name__})'
        for name, m in norms.items()
        if m not in replaced
    ]
    text = 'convert_norm: ' + (
        ', '.join(f'{n} x {kinds}' for kinds, n in done.items())
        or 'no norm layer to convert'
    )
    if left:
        some = ', '.join(left[:5]) + (', ...' if len(left) > 5 else '')
        text += f'; {len(left)} left alone: {some}'
    level = logging.INFO if done and not left else logging.WARNING
    print_log(text, logger='current', level=level)
