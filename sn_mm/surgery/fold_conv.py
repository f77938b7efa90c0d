# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A constant map of channels, folded into the convolution before it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from mmcv.cnn.bricks import wrappers
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from .channel_affine import ChannelAffine

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
# A forward of its own may do more than convolve, as standardizing weights.
_FORWARDS = {cls.forward for cls in _CONVOLUTIONS} | {
    getattr(wrappers, cls.__name__).forward
    for cls in _CONVOLUTIONS
    if hasattr(wrappers, cls.__name__)
}


def foldable(source: nn.Module, modules: Iterable[nn.Module]) -> str:
    """Why nothing can be folded into a layer; '' if it can.

    Args:
        source: a convolution or a linear layer.
        modules: all of its model.
    """
    if type(source).forward not in _FORWARDS:
        return f'{type(source).__name__} is no plain convolution'
    if is_parametrized(source):
        return 'the convolution is parametrized'
    if source._forward_hooks or source._forward_pre_hooks:
        return 'the convolution has hooks'
    tensors = {id(source.weight), id(source.bias)} - {id(None)}
    for module in modules:
        own = {id(p) for p in module._parameters.values()}
        if module is not source and own & tensors:
            return "the convolution's weights are shared"
    return ''


def fold_into(source: nn.Module, norm: ChannelAffine) -> int:
    """Let a layer compute what it and a map of its channels compute.

    Args:
        source: for which :func:`foldable` is ''; changed in place.
        norm: what follows it.

    Returns:
        How many numbers the layer has more than before: those of its bias.
    """
    scale, shift = affine_of(norm)
    weight, old = source.weight, source.bias
    bias = shift if old is None else old.detach().double() * scale + shift
    with torch.no_grad():
        weight.copy_(weight.double() * _shaped(scale, source))
    grows = old is None
    bias = bias.to(weight.dtype)
    if grows:
        source.bias = nn.Parameter(bias, requires_grad=weight.requires_grad)
    else:
        with torch.no_grad():
            old.copy_(bias)
    return bias.numel() if grows else 0


def affine_of(norm: ChannelAffine) -> tuple[Tensor, Tensor]:
    """(C,) slope and offset of a map of channels, in float64."""
    mean, var = (t.detach().double() for t in (norm.mean, norm.var))
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    return scale, shift


def _shaped(scale: Tensor, source: nn.Module) -> Tensor:
    """(C,) as a factor of the weight: (C, C_in, ...) or its transpose."""
    rest = (1,) * (source.weight.dim() - 2)
    if not isinstance(source, _ConvTransposeNd):
        return scale.view(-1, 1, *rest)
    # (C_in, C / groups, ...), the rows of a group after those before it
    rows = source.weight.shape[0] // source.groups
    return (
        scale.view(source.groups, 1, -1)
        .expand(-1, rows, -1)
        .reshape(source.weight.shape[0], -1, *rest)
    )
