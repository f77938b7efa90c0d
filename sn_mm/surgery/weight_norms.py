# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Normalize the weights of convolutions, beside or instead of their outputs.

Weight normalization (Salimans, Kingma, NeurIPS 2016) and spectral norm (Miyato
et al., ICLR 2018) through torch's parametrizations, weight normalization of
centred weights through one of ours, and weight standardization (Qiao et al.,
arXiv 1903.10520) through mmcv's ``ConvWS``.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Union

import torch
from mmcv.cnn.bricks.conv_ws import ConvWS2d
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import (
    is_parametrized,
    register_parametrization,
)

from sn_mm.anatomy.components import Components, in_components
from sn_mm.anatomy.norms import looks_like_norm, parts_of_weights
from sn_mm.utils import join_names

from .convert_norm import _check_unwrapped
from .fold_conv import foldable
from .replace import HOOKS, replace_modules

METHODS = (
    'weight_norm',
    'centred_weight_norm',
    'spectral_norm',
    'weight_standardization',
)
Names = Union[str, Sequence[str], None]
_KINDS = (nn.modules.conv._ConvNd, nn.Linear)
_WEIGHT = 'parametrizations.weight.'


class WeightNorm(nn.Module):
    """w = g v / |v|, of one output channel at a time.

    Args:
        dim: axis of the output channels.
        centred: v is centred over all other axes first.
    """

    def __init__(self, dim: int = 0, centred: bool = False) -> None:
        super().__init__()
        self.dim, self.centred = dim, centred

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        """The weight of g (C along ``dim``, else 1) and v."""
        v = self._centre(v)
        return g * v / self._length(v)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """g and v of a weight, or of what centring leaves of it."""
        return self._length(self._centre(weight)), weight

    def _axes(self, t: Tensor) -> tuple[int, ...]:
        return tuple(i for i in range(t.dim()) if i != self.dim)

    def _centre(self, v: Tensor) -> Tensor:
        if not self.centred:
            return v
        return v - v.mean(self._axes(v), keepdim=True)

    def _length(self, v: Tensor) -> Tensor:
        length = v.square().sum(self._axes(v), keepdim=True).sqrt()
        return length.clamp(min=torch.finfo(v.dtype).tiny)


def normalize_weights(
    model: nn.Module,
    method: str,
    include: Names = None,
    exclude: Names = None,
    components: Components = None,
    linear: bool = False,
) -> nn.Module:
    """Normalize the weights of a model's convolutions, in place.

    Before the model is wrapped and the optimizer is built. Weights of files
    fit as before: under ``weight``, or under the names of the parametrization
    (g and v are ``parametrizations.weight.original0`` and ``1``). What a
    model computes stays for 'weight_norm'; 'centred_weight_norm' and
    'weight_standardization' take the mean out of weights, the latter and
    'spectral_norm' their scale, too. 'weight_standardization' is therefore
    for convolutions with a norm behind them, as registered: a layer that
    predicts would change for good.

    Left alone are frozen layers, those whose weight is shared, that do more
    than convolve, whose output channels have a single weight (where it is
    centred), and, with 'weight_standardization', all but 2-d ones.

    Args:
        model: changed in place; the new layers have the old ones' names.
        method: 'weight_norm', 'centred_weight_norm', 'spectral_norm' or
            'weight_standardization'.
        include, exclude: names of layers or parts, or patterns of names, one
            or several.
        components: only those of these components; see
            :func:`sn_mm.convert_norm`.
        linear: linear layers, too; not with 'weight_standardization'.

    Returns:
        The model, or the new layer where ``model`` is one itself. What was
        done is logged.

    Raises:
        ValueError: for an unknown method, for names that fit nothing, if
            there is nothing to normalize, and for a wrapped model. The model
            is as before.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> type(normalize_weights(model, 'weight_standardization')[0])
        <class 'mmcv.cnn.bricks.conv_ws.ConvWS2d'>
    """
    if method not in METHODS:
        raise ValueError(
            f'unknown method {method!r}; choose from '
            f'{", ".join(map(repr, METHODS))}'
        )
    _check_unwrapped(model)
    chosen, left = _chosen(model, method, include, exclude, linear)
    inside = set(in_components(model, list(chosen), components))
    chosen = {name: m for name, m in chosen.items() if name in inside}
    if not chosen:
        reasons = ', '.join(f'{n} ({why})' for n, why in left.items())
        raise ValueError(
            f'{type(model).__name__} has no layer for {method}'
            + (f': {join_names(reasons.split(", "), 5)}' if left else '')
        )
    if method == 'weight_standardization':
        made = {m: _standardized(m) for m in chosen.values()}
        model = replace_modules(model, made)
    else:
        for module in chosen.values():
            _parametrize(module, method)
    text = f'{method}: {len(chosen)} layers'
    if left:
        names = [f'{n} ({why})' for n, why in left.items()]
        text += f'; {len(left)} left alone: {join_names(names, 5)}'
    print_log(text, logger='current', level=logging.INFO)
    return model


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """Within, the layers that were parametrized have plain weights.

    For initialization, which writes to ``weight`` in place, and loads files
    by its name. Afterwards the very parameters of before, which an optimizer
    may hold, have values that give those weights.
    """
    kept = [
        (m, type(m), m._modules['parametrizations'])
        for m in model.modules()
        if getattr(m, '_sn_mm_weight_norm', None) and is_parametrized(m)
    ]
    for module, cls, parametrization in kept:
        with torch.no_grad():
            weight = module.weight.detach().clone()
        trains = next(parametrization.parameters()).requires_grad
        del module._modules['parametrizations']
        module.__class__ = cls.__mro__[1]
        module.weight = nn.Parameter(weight, requires_grad=trains)
    try:
        yield
    finally:
        for module, cls, parametrization in kept:
            weight = module._parameters.pop('weight')
            module.__class__ = cls
            module._modules['parametrizations'] = parametrization
            _set(module, weight.detach())


def init_plain(model: nn.Module) -> None:
    """``init_weights`` of a model with parametrized weights."""
    with plain_weights(model):
        type(model).init_weights(model)


def keep_initialization(model: nn.Module) -> None:
    """Let ``model.init_weights()`` initialize the weights themselves."""
    if hasattr(type(model), 'init_weights'):
        model.init_weights = functools.partial(init_plain, model)


# -- which layers ------------------------------------------------------------
def _chosen(
    model: nn.Module, method: str, include: Names, exclude: Names, linear: bool
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Layers by name; and names of those left alone, with why."""
    kinds = _KINDS if linear else _KINDS[:1]
    modules = dict(model.named_modules())
    layers = {n: m for n, m in modules.items() if isinstance(m, kinds)}
    included, excluded = (
        _fitting(layers, names, argument)
        for names, argument in ((include, 'include'), (exclude, 'exclude'))
    )
    before_norm = _before_norms(modules)
    chosen, left = {}, {}
    for name, module in layers.items():
        if include is not None and name not in included or name in excluded:
            continue
        why = _why_not(module, method, modules.values())
        needs_norm = method == 'weight_standardization' and include is None
        if not why and needs_norm and name not in before_norm:
            why = 'no norm behind it'
        if why:
            left[name] = why
        else:
            chosen[name] = module
    return chosen, left


def _fitting(
    layers: dict[str, nn.Module], names: Names, argument: str
) -> set[str]:
    """Layers that at least one name fits; each name has to fit one."""
    if names is None:
        return set()
    found = set()
    for rule in [names] if isinstance(names, str) else names:
        fits = {
            n
            for n in layers
            if f'{n}.'.startswith(f'{rule}.') or fnmatchcase(n, rule)
        }
        if not fits:
            raise ValueError(
                f'{argument}={rule!r} fits no convolution of this model; it '
                f'has {join_names(layers, 5)}'
            )
        found |= fits
    return found


def _before_norms(modules: dict[str, nn.Module]) -> set[str]:
    """Convolutions that are registered right before a norm.

    Modules are registered in the order of their use in all of the toolboxes'
    networks.
    """
    norms = {m for m in modules.values() if looks_like_norm(m)}
    norms -= parts_of_weights(modules[''])
    leaves = [
        (name, m)
        for name, m in modules.items()
        if m in norms or not next(m.children(), None)
    ]
    return {
        name
        for (name, _), (_, after) in zip(leaves, leaves[1:])
        if after in norms
    }


def _why_not(module: nn.Module, method: str, modules) -> str:
    """Why a layer's weight is not normalized; '' if it is."""
    why = foldable(module, modules)
    if why:
        return why
    if not module.weight.requires_grad:
        return 'frozen'
    transposed = isinstance(module, _ConvTransposeNd)
    if transposed and module.groups > 1:
        return 'transposed, in groups'
    single = module.weight.numel() == module.weight.shape[transposed]
    if single and method in ('centred_weight_norm', METHODS[-1]):
        return 'one weight to a channel'
    if method == METHODS[-1]:
        plain = isinstance(module, nn.Conv2d)
        if not plain or module.padding_mode != 'zeros':
            return 'ConvWS has no such layer'
    return ''


# -- how ---------------------------------------------------------------------
def _standardized(conv: nn.Conv2d) -> ConvWS2d:
    """mmcv's layer, with the old one's parameters, mode and hooks."""
    new = ConvWS2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        bias=False,
    )
    new.weight, new.bias = conv.weight, conv.bias
    for name in HOOKS:
        if hasattr(conv, name):
            setattr(new, name, getattr(conv, name))
    return new.train(conv.training)


def _parametrize(module: nn.Module, method: str) -> None:
    weight = module.weight.detach().clone()
    dim = int(isinstance(module, _ConvTransposeNd))
    of_torch = getattr(parametrizations, 'weight_norm', None)  # torch 2.1
    if method == 'spectral_norm':
        parametrizations.spectral_norm(module)
    elif method == 'weight_norm' and of_torch:
        of_torch(module, dim=dim)
    else:
        register_parametrization(
            module, 'weight', WeightNorm(dim, method != 'weight_norm')
        )
    _set(module, weight)
    module._sn_mm_weight_norm = method
    module._register_load_state_dict_pre_hook(_take_weight, with_module=True)


def _take_weight(module: nn.Module, state_dict, prefix: str, *args) -> None:
    """A file's plain weight under the names of the parametrization."""
    weight = state_dict.get(prefix + 'weight')
    if weight is None or not is_parametrized(module):
        return
    original = module.parametrizations.weight
    if weight.shape != module.weight.shape:
        return  # torch speaks of the key that it does not know
    del state_dict[prefix + 'weight']
    with torch.no_grad():
        for name, value in _originals(original, weight).items():
            state_dict[f'{prefix}{_WEIGHT}{name}'] = value


def _originals(original: nn.Module, weight: Tensor) -> dict[str, Tensor]:
    """The state of a parametrization that gives a weight.

    Spectral norm starts with its exact singular vectors, so that nothing
    depends on chance, or on how many steps of a power method follow.
    """
    (method,) = original
    if not hasattr(method, '_u'):
        g, v = method.right_inverse(weight)
        return dict(original0=g, original1=v)
    rows = weight.transpose(0, method.dim).flatten(1).double()
    left, _, right = torch.linalg.svd(rows, full_matrices=False)
    vectors = {'0._u': left[:, 0], '0._v': right[0]}
    return dict(
        original=weight, **{n: t.to(weight) for n, t in vectors.items()}
    )


def _set(module: nn.Module, weight: Tensor) -> None:
    """Give a parametrized layer a weight, in the parameters that it has."""
    original = module.parametrizations.weight
    own = original.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in _originals(original, weight).items():
            own[name].copy_(value)
