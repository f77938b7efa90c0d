# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which tensor of a layer it was that its forward failed with.

Looked for after a failure: the checks would cost a small layer more than its
arithmetic does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .state import ONE_FOR_EACH_CHANNEL


def blame_tensor(layer: nn.Module, x: Tensor, error: Exception) -> None:
    """Raise an error that names a parameter or buffer, if one is odd.

    Args:
        x: the layer's input.
        error: what the layer failed with.

    Raises:
        ValueError: from ``error``, if a tensor is on another device than x,
            not dense, of a rank other than 1, or in training one that cannot
            be written to; or if running statistics were taken away.
    """
    of, dot, _ = layer.running_names[0].rpartition('.')
    tracked = (*layer.running_names, f'{of}{dot}num_batches_tracked')
    for name in tracked if layer.track_running_stats else ():
        if name in layer._buffers and layer._buffers[name] is None:
            raise ValueError(
                f'{name} of this {type(layer).__name__} is None: set '
                'track_running_stats=False, too, to normalize with the '
                'batch in evaluation'
            ) from error
    # buffers first: a parameter is written to by few layers
    own = [*layer.named_buffers(), *layer.named_parameters()]
    for find in (_oddity, _why_not_written)[: 1 + layer.training]:
        for name, t in own:
            reason = find(name, t, x, layer)
            if reason is not None:
                raise ValueError(
                    f'{name} of this {type(layer).__name__} {reason}'
                ) from error


def check_matrices(layer: nn.Module, x: Tensor) -> None:
    """Raise where a tensor of a shape of its own is odd.

    Beforehand: products with such a one may fail in backward alone, where
    nobody can tell whose tensor it was.
    """
    for name in layer.shapes():
        t = getattr(layer, name)
        reason = None if t is None else _oddity(name, t, x, layer)
        if reason is not None:
            raise ValueError(f'{name} of this {type(layer).__name__} {reason}')


def _oddity(name: str, t: Tensor, x: Tensor, layer: nn.Module) -> str | None:
    if t.device != x.device:
        return (
            f'is on {t.device}, but the input is on {x.device}: move the '
            'layer or the input'
        )
    if t.layout is not torch.strided:
        return f'has the layout {t.layout}: convert it with .to_dense()'
    if t.is_complex():
        return f'is {t.dtype}, and has to be real: use .real'
    leaf = name.rpartition('.')[2]
    rows = leaf in ONE_FOR_EACH_CHANNEL or name in layer.running_names
    if rows and name not in layer.shapes() and t.dim() != 1:
        return f'has shape {tuple(t.shape)}: use .flatten()'
    return None


def _why_not_written(
    name: str, t: Tensor, x: Tensor, layer: nn.Module
) -> str | None:
    """Why a layer in training cannot write to this tensor."""
    stands_for_several = any(
        stride == 0 and size > 1 for stride, size in zip(t.stride(), t.shape)
    )
    if stands_for_several or t._is_zerotensor():
        return (
            'cannot be written to, since its elements share memory: '
            'replace it by its .clone()'
        )
    if t.dim() and not t.is_floating_point():
        return f'is {t.dtype}, and cannot hold an average: use .float()'
    return None
