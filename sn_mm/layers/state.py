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


def flatten_public(layer: nn.Module, state_dict, prefix: str) -> None:
    """The public code's layout, in place, to ours.

    (1, C, 1, 1) affine parameters, (1, C, 1) running statistics, and no
    ``num_batches_tracked``.
    """
    for name in ONE_FOR_EACH_CHANNEL:
        value = state_dict.get(prefix + name)
        if (
            isinstance(value, Tensor)
            and value.dim() > 1
            and value.shape[0] == 1
            and value.numel() == value.shape[1]
        ):
            state_dict[prefix + name] = value.reshape(-1)
    count = prefix + 'num_batches_tracked'
    if (
        layer.track_running_stats
        and count not in state_dict
        and prefix + 'running_mean' in state_dict
    ):
        state_dict[count] = torch.zeros_like(layer.num_batches_tracked)
