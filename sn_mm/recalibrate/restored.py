# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let a model run without leaving a trace in it, or in the random state."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

# exact types: a subclass may do more than contain
_CONTAINERS = (dict, OrderedDict, list, set, deque)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put a model back, whatever is done to it inside, errors included.

    Values of all parameters and buffers, which of them train, modes, hooks
    and other attributes of its modules. The very tensors stay in place, so
    that optimizers and averaged models keep referring to them. Takes the
    memory of one more copy of the parameters.

    Attributes are kept one level deep: what lies in a list is back in its
    place, but as it has become.
    """
    attributes = {m: _attributes(m) for m in model.modules()}
    tensors = [*model.parameters(), *model.buffers()]
    values = [(t, t.detach().clone(), t.requires_grad) for t in tensors]
    try:
        yield
    finally:
        for module, kept in attributes.items():
            _restore(module, kept)
        with torch.no_grad():
            for tensor, value, trains in values:
                # not touched needlessly: autograd would notice in mid-step
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
                if tensor.requires_grad != trains:
                    tensor.requires_grad_(trains)


@contextmanager
def restored_random_state() -> Iterator[None]:
    """Put back the states of Python's, numpy's and torch's generators."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(_cuda_devices()):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _cuda_devices() -> list[int]:
    """Devices with a state; none while CUDA is not in use."""
    if not torch.cuda.is_initialized():
        return []
    return list(range(torch.cuda.device_count()))


def _attributes(module: nn.Module) -> list[tuple[str, Any, Any]]:
    """Name, value and, of a container, a copy."""
    return [
        (name, value, copy.copy(value) if type(value) in _CONTAINERS else None)
        for name, value in vars(module).items()
    ]


def _restore(module: nn.Module, kept: list[tuple[str, Any, Any]]) -> None:
    own = vars(module)
    for name in set(own) - {name for name, *_ in kept}:
        del own[name]
    for name, value, content in kept:
        if content is not None:
            _refill(value, content)
        own[name] = value


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        container[:] = content
        return
    container.clear()
    if isinstance(container, deque):
        container.extend(content)
    else:
        container.update(content)
