# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which layer waited in vain, where a process did not call it.

A collective that fails says how long it waited, and nothing of whose numbers
it carried. Looked up when that has happened: until then it costs nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from mmengine.model import is_model_wrapper
from torch import nn


@contextmanager
def waiting_for_others(channels: int) -> Iterator[None]:
    """Name the layer in the error of a collective inside.

    Args:
        channels: of the layer, to tell it by where it is not known, as in a
            backward.

    Raises:
        RuntimeError: from what the collective raised.
    """
    try:
        yield
    except RuntimeError as error:
        layer = _calling_layer()
        if layer is None:
            name = f'a synchronized layer of {channels} channels (backward)'
        else:
            name = f'{type(layer).__name__} {name_of(layer)}'.strip()
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f'{name}: process {dist.get_rank()} waited in vain for the '
            'batch statistics of the others. Every process of its group must '
            'call the layer in each step, and run backward through it if one '
            'does; some process did not, or has ended. A head that processes '
            "may leave out takes type='SN'. "
            f'torch.distributed says: {said}'
        ) from error


def name_of(layer: nn.Module) -> str:
    """The layer's name in the model that it is part of; '' if in none.

    Looks through all modules of the process, as the layer does not know.
    """
    parents = {}
    for module in gc.get_objects():
        if issubclass(type(module), nn.Module):
            children = module.__dict__.get('_modules') or {}
            for name, child in children.items():
                parents.setdefault(id(child), (module, name))
    parts: list[str] = []
    module, seen = layer, set()
    while id(module) in parents and id(module) not in seen:
        seen.add(id(module))
        module, name = parents[id(module)]
        if not is_model_wrapper(module):
            parts.append(name)
    return '.'.join(reversed(parts))


def _calling_layer() -> nn.Module | None:
    """The synchronized layer whose forward runs, by the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get('self')
        if isinstance(owner, nn.Module) and getattr(
            owner, 'is_synchronized', False
        ):
            return owner
        frame = frame.f_back
    return None
