# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The norm layers of any model: which there are, and what each one is."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Union

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from sn_mm.layers import RowNorm, SN1d, SN3d
from sn_mm.layers.hard import RATIO_PARAMETERS

from .probe import equals_its_kind

Rule = Union[str, type]
Rules = Union[Rule, Sequence[Rule], None]

# A subclass with a forward of its own may do more than normalize.
_FORWARDS = {
    cls.forward
    for cls in (
        _BatchNorm,
        nn.SyncBatchNorm,
        _InstanceNorm,
        nn.GroupNorm,
    )
}
# LayerNorm over the channels of (N, C, H, W): every library has its own.
_LAYER_NORM_2D = ('LayerNorm2d', 'LN2d')
# SN itself, and what derives from it, takes any number of axes.
_BY_DIMENSION = {
    1: (nn.BatchNorm1d, nn.InstanceNorm1d, SN1d),
    2: (nn.BatchNorm2d, nn.InstanceNorm2d),
    3: (nn.BatchNorm3d, nn.InstanceNorm3d, SN3d),
}


def find_norms(
    model: nn.Module, include: Rules = None, exclude: Rules = None
) -> dict[str, nn.Module]:
    """Norm layers by name; a layer in several places has its first name.

    Args:
        model: any model.
        include: what to look at, by default everything: classes, names of
            layers or of parts ('backbone'), and patterns of names
            ('*.downsample.1'), one or several.
        exclude: what to pass over, likewise.

    Returns:
        All modules that are called a norm, convertible or not, and normalize
        what a layer gives; not weight and spectral norm of its weights.

    Raises:
        ValueError: if one of the rules fits no norm layer.
    """
    names: dict[nn.Module, list[str]] = {}
    inside = parts_of_norms(model) | parts_of_weights(model)
    for name, module in model.named_modules(remove_duplicate=False):
        if looks_like_norm(module) and module not in inside:
            names.setdefault(module, []).append(name)
    included, excluded = (
        _fitting(names, rules, argument)
        for rules, argument in ((include, 'include'), (exclude, 'exclude'))
    )
    return {
        places[0]: module
        for module, places in names.items()
        if (include is None or module in included) and module not in excluded
    }


def parts_of_norms(model: nn.Module) -> set[nn.Module]:
    """Modules that norms of ours consist of, as IBN of IN and BN."""
    return {
        part
        for module in model.modules()
        if isinstance(module, RowNorm)
        for part in module.modules()
        if part is not module
    }


def parts_of_weights(model: nn.Module) -> set[nn.Module]:
    """Modules that layers' weights are made with, as weight norm's."""
    return {
        part
        for module in model.modules()
        if isinstance(module, ParametrizationList)
        for part in module.modules()
    }


def looks_like_norm(module: nn.Module) -> bool:
    """Whether a module normalizes, by its class or its class's name."""
    if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm)):
        return True
    name = type(module).__name__
    if next(module.children(), None) is not None:
        return False
    if type(module).__module__.startswith('torch.nn.utils.'):
        return False  # weight and spectral norm, of other layers' weights
    return 'Norm' in name or name in _LAYER_NORM_2D


def is_plain_norm(module: nn.Module) -> bool:
    """Whether a module normalizes (N, C, *spatial), and does nothing else.

    Torch's own norms and ours do. Those of other libraries do where their
    forward takes x alone and gives on a probe what their kind gives: not so
    LayerNorm, which normalizes the last axes of whatever it is given, frozen
    kinds, layers with an activation inside, parametrized ones, and lazy ones
    that do not know their channels yet.
    """
    cls = type(module)
    if is_parametrized(module) or isinstance(module, LazyModuleMixin):
        return False
    if isinstance(module, RowNorm) or cls.forward in _FORWARDS:
        return True
    if cls.__name__ == 'SyncBatchNorm' and cls.__module__.startswith('mmcv.'):
        return True  # from before torch's; runs on a GPU alone
    return looks_like_norm(module) and equals_its_kind(module)


def num_channels(module: nn.Module) -> int:
    """C of a plain norm."""
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if hasattr(module, 'num_features'):
        return module.num_features
    return module.weight.numel()


def dimension(cls: type) -> int | None:
    """Number of spatial axes of a norm class; None if it takes any."""
    for number, classes in _BY_DIMENSION.items():
        if issubclass(cls, classes):
            return number
    return None


def has_ratios(module: nn.Module) -> bool:
    """Whether a layer learned shares of several statistics, as SN does."""
    return isinstance(module, RowNorm) and bool(module.statistics)


def sets_ratios(module: nn.Module) -> bool:
    """Whether ratios are parameters of a layer's own, as SN's are.

    Those of DN follow from gates, and those of EN from the sample: no state
    gives them a share.
    """
    return has_ratios(module) and hasattr(module, RATIO_PARAMETERS[0])


def has_batch_statistics(module: nn.Module) -> bool:
    """Whether a plain norm normalizes with statistics of the batch."""
    if isinstance(module, RowNorm):
        return module.uses_batch_statistics
    return getattr(module, 'running_mean', None) is not None or isinstance(
        module, _BatchNorm
    )


def running_names(module: nn.Module) -> tuple[str, str]:
    """Where a norm's state dict has its running statistics."""
    return getattr(module, 'running_names', RowNorm.running_names)


def _fitting(
    names: dict[nn.Module, list[str]], rules: Rules, argument: str
) -> set[nn.Module]:
    """Layers that at least one rule fits; each rule has to fit one."""
    if rules is None:
        return set()
    if isinstance(rules, (str, type)):
        rules = [rules]
    found: set[nn.Module] = set()
    for rule in rules:
        fits = {m for m, places in names.items() if _fits(rule, m, places)}
        if not fits:
            parts = sorted(
                {p.split('.')[0] for v in names.values() for p in v}
            )
            raise ValueError(
                f'{argument}={rule!r} fits no norm layer of this model; its '
                f'parts with norm layers are {parts}'
            )
        found |= fits
    return found


def _fits(rule: Rule, module: nn.Module, places: list[str]) -> bool:
    if isinstance(rule, type):
        return isinstance(module, rule)
    return any(
        f'{place}.'.startswith(f'{rule}.') or fnmatchcase(place, rule)
        for place in places
    )
