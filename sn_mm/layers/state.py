# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What state dicts say of a layer besides its tensors.

The same tensors mean another function under other settings: statistics in
another order, another eps. Settings go into a state dict's metadata, where
torch keeps versions, and are compared on loading. Metadata is lost in plain
dicts, so layouts are recognized by keys and shapes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sn_mm.utils.errors import CheckpointError

ONE_FOR_EACH_CHANNEL = ('weight', 'bias', 'running_mean', 'running_var')


def write_settings(layer: nn.Module, destination, prefix: str) -> None:
    """Put the layer's settings into the metadata of a state dict."""
    metadata = getattr(destination, '_metadata', {}).get(prefix[:-1])
    if metadata is not None:
        metadata.update({n: getattr(layer, n) for n in layer.settings})


def check_settings(layer: nn.Module, prefix: str, metadata: dict) -> None:
    """Compare a layer's settings with those its state was saved under.

    Raises:
        CheckpointError: if the layer would compute another function.
    """
    for name in layer.settings:
        own = getattr(layer, name)
        saved = metadata.get(name, own)
        if isinstance(own, tuple) and len(own) != len(saved):
            continue  # torch speaks of shapes that do not fit
        if not _same(own, saved) and layer.uses_setting(name):
            raise CheckpointError(
                f'{prefix.rstrip(".") or "the layer"} was saved with {name}='
                f'{saved!r}, but this {type(layer).__name__} has {name}='
                f'{own!r}, and would compute another function: set {name}='
                f'{saved!r} in its norm_cfg'
            )


def _same(own, saved) -> bool:
    if isinstance(own, float):
        return math.isclose(own, saved, rel_tol=1e-6)
    if isinstance(own, tuple):
        return own == tuple(saved)
    return own == saved


def take_public(layer: nn.Module, state_dict, prefix: str) -> None:
    """The layout of a method's public code, in place, to ours.

    Other names; axes of length 1, such as (1, C, 1, 1) affine parameters and
    (1, C, 1) running statistics; one row where the layer has several, such
    as the affine pair of a BN; and no ``num_batches_tracked``.
    """
    for public, own in layer.public_names.items():
        if prefix + public in state_dict:
            state_dict[prefix + own] = state_dict.pop(prefix + public)
    shapes = {name: (layer.num_features,) for name in ONE_FOR_EACH_CHANNEL}
    for name, shape in {**shapes, **layer.shapes()}.items():
        value = state_dict.get(prefix + name)
        if isinstance(value, Tensor) and tuple(value.shape) != shape:
            state_dict[prefix + name] = as_shaped(value, shape)
    count = prefix + 'num_batches_tracked'
    if (
        layer.track_running_stats
        and count not in state_dict
        and prefix + 'running_mean' in state_dict
    ):
        state_dict[count] = torch.zeros_like(layer.num_batches_tracked)


def as_shaped(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``value`` in a shape that means the same, or as it is.

    Args:
        shape: axes of length 1 more or less; or rows, each of which is to
            be ``value``.
    """
    if _without_ones(value.shape) == _without_ones(shape):
        return value.reshape(shape)
    if len(shape) == 2 and tuple(value.shape) == shape[1:]:
        return value.expand(shape).clone()
    return value


def _without_ones(shape) -> list[int]:
    return [size for size in shape if size != 1]
