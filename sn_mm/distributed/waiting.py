# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which layer waited in vain, where a process did not call it.

A collective that fails says how long it waited, and nothing of whose numbers
it carried. Looked up when that has happened: until then it costs nothing.
"""

from __future__ import annotations

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

    A layer does not know its model, but whoever calls it does: looks at what
    the frames of all threads hold. A backward may run in a thread of its own.
    """
    names = (_name_in(model, layer) for model in _models_in_use())
    return max((name for name in names if name), key=len, default='')


def _models_in_use() -> Iterator[nn.Module]:
    """Modules that a running function, or an object in it, refers to."""
    seen: set[int] = set()
    for frame in sys._current_frames().values():
        while frame is not None:
            for value in list(frame.f_locals.values()):
                if id(value) in seen:
                    continue
                seen.add(id(value))
                for found in (value, *_attributes(value)):
                    if issubclass(type(found), nn.Module):
                        yield found
            frame = frame.f_back


def _attributes(value: object) -> list:
    """What an object holds; nothing where it does not say so."""
    try:
        return list(vars(value).values())
    except Exception:  # whatever it is, the error to be told is another
        return []


def _name_in(model: nn.Module, layer: nn.Module) -> str | None:
    """The layer's name in a model, without the parts of wrappers."""
    names = {id(m): name for name, m in model.named_modules()}
    name = names.get(id(layer))
    if name is None:
        return None
    parts, owner = [], model
    for part in name.split('.') if name else ():
        if not is_model_wrapper(owner):
            parts.append(part)
        owner = owner._modules[part]
    return '.'.join(parts)


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
