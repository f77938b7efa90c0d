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
from torch.nn.modules.instancenorm import _InstanceNorm

from sn_mm.anatomy.components import Components, in_components
from sn_mm.anatomy.deployment import warn_of_deployment
from sn_mm.anatomy.norms import (
    Rules,
    dimension,
    find_norms,
    has_batch_statistics,
    is_plain_norm,
    num_channels,
)
from sn_mm.functional import STATISTICS
from sn_mm.layers import RowNorm
from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.utils import join_names

from .frozen import keep_function, takes_over
from .place import axes_at
from .replace import HOOKS, replace_modules

# Arguments that the new layer takes from the old one, where both have them.
_SETTINGS = (
    'eps',
    'affine',
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
_OF_BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var')
_CONFIG_HINT = (
    '. A config of this model still names the old norms, and '
    'would load checkpoints of it wrongly; write model=dict(type='
    "'ConvertNorm', of=TYPE, norm_cfg=...) in the config instead "
    '(docs/configs.md)'
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
    layer norms over channels, SN layers of all kinds and the family's; gives
    any kind of norm that a config can name. Convert before wrapping the model
    in DistributedDataParallel and before building the optimizer: it cannot
    know new ratios.

    The new layers have the names of the old ones in their parents, and the
    very parameters and running statistics: affine ones, and between SN
    layers the ratios. They also keep ``eps``, ``momentum``, ``affine``,
    ``num_groups`` and all that SN layers have in common, unless ``cfg`` says
    otherwise; mode, device, dtype and hooks; layers in several places stay
    shared. 'SN' on a one- or three-dimensional layer is SN1d or SN3d.

    Frozen layers stay frozen. SN in their place could never learn its
    ratios, so it takes the old norm's statistic alone: a frozen BN becomes
    SN on BN's running statistics, in training too (``bn_eval``). Where the
    new type has no such statistic, the frozen norm is left as it is.

    Others are left alone: LayerNorm over tokens, norms whose forward takes
    more than x or does more than normalize, lazy ones before their first
    call, and norms behind a Linear where 'IN' is asked for. What was done is
    logged; so is that the config of the model, which still names the old
    norm, does not fit its checkpoints any more. Where maps have a single
    position (pooled ones) torch's 'IN' raises in training, wherever it comes
    from: name such layers in ``exclude``.

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
    return swap_norms(model, cfg, include, exclude, components, _CONFIG_HINT)


def swap_norms(
    model: nn.Module,
    cfg: dict | str,
    include: Rules = None,
    exclude: Rules = None,
    components: Components = None,
    hint: str = '',
) -> nn.Module:
    """:func:`convert_norm`, with a hint of the caller's in the log."""
    cfg = _checked(cfg)
    _check_unwrapped(model)
    norms = find_norms(model, include, exclude)
    chosen = in_components(model, list(norms), components)
    norms = {name: norms[name] for name in chosen}
    targets = {name: _target(m, name, model, cfg) for name, m in norms.items()}
    # All are built before the first is replaced: errors change nothing.
    built = {
        name: _build(norms[name], target, model)
        for name, target in targets.items()
        if target is not None
    }
    trains = cfg.get('requires_grad', True)
    frozen = {n for n in built if not trains or _is_frozen(norms[n])}
    for name in frozen:
        if not takes_over(norms[name], built[name][0]):
            del built[name]
    replaced = {}
    for name, (layer, kept) in built.items():
        _hand_over(norms[name], layer, kept, name in frozen)
        replaced[norms[name]] = layer
    for old, new in replaced.items():
        if isinstance(new, RowNorm):
            new.take_place_of(old, replaced, include is not None)
    for old in replaced:
        if isinstance(old, RowNorm):
            old.give_up_place(replaced)
    model = replace_modules(model, replaced)
    _report(norms, replaced, frozen, hint)
    warn_of_deployment(model)
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


def _own_types() -> list[str]:
    return sorted(
        name
        for name, cls in MODELS.module_dict.items()
        if inspect.isclass(cls) and issubclass(cls, RowNorm)
    )


def _norm_class(kind: Any) -> type | None:
    if inspect.isclass(kind):
        return kind
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(kind)


def _target(
    old: nn.Module, name: str, model: nn.Module, cfg: dict
) -> dict | None:
    """``cfg`` for the place of ``old``; None if it has none there."""
    kind = cfg['type']
    number = dimension(type(old))
    cls = _norm_class(kind)
    if number is None and cls is not None and dimension(cls) is not None:
        # one that takes any rank, for one that does not
        number = axes_at(model, name)
        if number is None:
            return None
        number = max(number, 1)  # batch norms take (N, C) as (N, C, L)
    if isinstance(kind, str) and number in (1, 3):
        sibling = f'{kind}{number}d'
        kind = sibling if _norm_class(sibling) else kind
        cls = _norm_class(kind)
    if cls is None:
        raise KeyError(
            f'norm type {kind!r} is not registered; sn_mm has '
            f'{", ".join(_own_types())}, mmcv has BN, SyncBN, GN and IN'
        )
    if issubclass(cls, nn.LayerNorm) and cls.forward is nn.LayerNorm.forward:
        raise ValueError(
            f'{kind!r} normalizes the last axes of its input, not (N, C, '
            "*spatial); dict(type='GN', num_groups=1) is the layer norm there"
        )
    fits = number is None or dimension(cls) in (None, number)
    if not (fits and is_plain_norm(old)) or _lacks_rows(cls, old, name, model):
        return None
    return {**_settings(old, cls, cfg), **cfg, 'type': kind}


def _lacks_rows(
    cls: type, old: nn.Module, name: str, model: nn.Module
) -> bool:
    """Whether a torch instance norm might get (N, C), which it refuses."""
    if not issubclass(cls, _InstanceNorm) or issubclass(cls, RowNorm):
        return False
    axes = axes_at(model, name)
    return axes == 0 or (dimension(type(old)) == 1 and axes != 1)


def _settings(old: nn.Module, cls: type, cfg: dict) -> dict:
    """Arguments of a new ``cls`` that come from ``old``."""
    taken = _arguments(cls)
    names = {*_SETTINGS, *_common_options(type(old), cls)}
    if set(STATISTICS).issuperset(getattr(old, 'statistics', None) or '?'):
        names.add('statistics')
    if has_batch_statistics(old):
        names.update(_RUNNING_SETTINGS)
    settings = {
        name: getattr(old, name)
        for name in names
        if name in taken
        and hasattr(old, name)
        and name not in getattr(cls, 'own_settings', ())
    }
    if 'affine' not in _arguments(type(old)):
        settings.pop('affine', None)  # it has no say in its own pair
    if settings.get('process_group') is not None and 'sync_group' in cfg:
        del settings['process_group']
    if 'process_group' in cfg:
        settings.pop('sync_group', None)
    if 'num_groups' in taken and 'num_groups' not in {**settings, **cfg}:
        if taken['num_groups'].default is inspect.Parameter.empty:
            raise ValueError(f'{cls.__name__} needs num_groups in its cfg')
    return settings


def _common_options(old: type, new: type) -> set[str]:
    """Options of a base of both: others share no more than a name."""
    return {
        name
        for base in old.__mro__
        if issubclass(base, RowNorm) and issubclass(new, base)
        for name in base.options
    }


def _arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of a norm's constructor, those passed on included."""
    found: dict[str, inspect.Parameter] = {}
    for base in reversed(cls.__mro__):
        if '__init__' in base.__dict__:
            own = inspect.signature(base.__init__).parameters
            passes_on = any(p.kind is p.VAR_KEYWORD for p in own.values())
            found = {**(found if passes_on else {}), **own}
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
    if not _same_logits(old, new):
        kept = [name for name in kept if name not in RATIO_PARAMETERS]
    return new, kept


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    both = {**module._parameters, **module._buffers}
    return {name: value for name, value in both.items() if value is not None}


def _first_tensor(module: nn.Module) -> torch.Tensor | None:
    tensors = (*module.parameters(), *module.buffers())
    return next((t for t in tensors if t.is_floating_point()), None)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _same_ratios(old: nn.Module, new: nn.Module) -> bool:
    """Whether both mix the same statistics, in the same groups."""
    shapes = [
        {k: r.shape for k, r in m.ratios().items()}
        for m in (old, new)
        if isinstance(m, RowNorm)
    ]
    return (
        len(shapes) == 2
        and bool(shapes[0])
        and hasattr(new, 'set_ratios_')
        and shapes[0] == shapes[1]
        and old.statistics == new.statistics
    )


def _same_logits(old: nn.Module, new: nn.Module) -> bool:
    """... and make ratios of their parameters in the same way."""
    names, others = ({*m._parameters, *m._buffers} for m in (old, new))
    return names == others and _same_ratios(old, new)


def _hand_over(
    old: nn.Module, new: nn.Module, kept: list[str], frozen: bool
) -> None:
    """Give ``new`` the state, the hooks and the mode of ``old``.

    The tensors themselves: what else refers to them, an optimizer or a layer
    that shares them, goes on to do so. The same holds for handles of hooks.
    """
    _translate(old, new, kept)
    _spread_affine(old, new, kept)
    for name in kept:
        own = new._parameters if name in new._parameters else new._buffers
        value = _state(old)[name]
        is_parameter = isinstance(value, nn.Parameter)
        if is_parameter == (own is new._parameters):
            own[name] = value
        else:
            own[name].data.copy_(value)
    if _same_ratios(old, new):
        if not _same_logits(old, new):
            new.set_ratios_(old.ratios())
    elif frozen:
        keep_function(old, new)
    if frozen:
        new.requires_grad_(False)
    for name in HOOKS:
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))
    if getattr(new, 'hard_ratios', False) and _same_ratios(old, new):
        new.choose_()
    new.train(old.training)


@torch.no_grad()
def _translate(old: nn.Module, new: nn.Module, kept: list[str]) -> None:
    """By way of BN, what only one of the two keeps as BN does."""
    if isinstance(old, RowNorm):
        given = old.as_batch_norm()
    else:
        given = {n: t for n, t in _state(old).items() if n in _OF_BATCH_NORM}
    given = {n: t for n, t in given.items() if n not in kept}
    if isinstance(new, RowNorm):
        new.take_batch_norm_(given)
        return
    own = _state(new)
    for name, value in given.items():
        if name in own and own[name].shape == value.shape:
            own[name].copy_(value)


def _spread_affine(old: nn.Module, new: nn.Module, kept: list[str]) -> None:
    """The old affine pair for each statistic that has one of its own."""
    given, own = _state(old), _state(new)
    for name in ('weight', 'bias'):
        if name in kept or name not in given or name not in own:
            continue
        if given[name].shape == own[name].shape[1:]:
            own[name].data.copy_(given[name].data.expand_as(own[name]))


def _report(
    norms: dict[str, nn.Module],
    replaced: dict[nn.Module, nn.Module],
    frozen: set[str],
    hint: str,
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
        text += f'; {len(left)} left alone: {join_names(left, 5)}'
    text += hint if done else ''
    level = logging.INFO if done and not left else logging.WARNING
    print_log(text, logger='current', level=level)
