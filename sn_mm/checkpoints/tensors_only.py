# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A pickle that builds tensors, containers and numbers, and nothing else.

Has the names of the module ``pickle`` that ``torch.load`` asks for. Files of
training runs hold log buffers, NumPy numbers, configurations and callbacks
beside the weights. Whatever such things are, they become an :class:`Inert`:
nothing but what builds a tensor or a plain container is ever imported, called
or built, so that a file of anybody's can be read.
"""

from __future__ import annotations

import importlib
import pickle
from collections import OrderedDict
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

__all__ = ['Inert', 'Unpickler', 'UnpicklingError', 'load']

_BUILDERS = {
    'torch': ('Size', 'device', 'Tensor'),
    'torch._utils': (
        '_rebuild_parameter',
        '_rebuild_tensor',
        '_rebuild_tensor_v2',
        '_rebuild_tensor_v3',
    ),
    'torch.nn.parameter': ('Parameter',),
    'torch.serialization': ('_get_layout',),
    'torch.storage': ('TypedStorage', 'UntypedStorage'),
}


class Inert:
    """Stands for anything that is not needed; takes whatever it is given.

    Attributes:
        args: that the pickle would have called it with.
        state: that the pickle would have given it, such as the entries of an
            ``argparse.Namespace``; as inert as this.
    """

    # torch compares the source of a module in an old file with what stands
    # for it, and asks this of it where they differ
    dump_patches = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


def _as_dict(*args: Any) -> dict:
    """A Counter or defaultdict: a plain dict, whatever its factory."""
    return dict(args[0]) if args and isinstance(args[0], dict) else {}


def _of_subclass(build: Any, kind: Any, args: tuple, state: Any) -> Any:
    """A tensor with attributes, or of a subclass: the tensor alone."""
    return build(*args)


def _with_state(
    data: Any, requires_grad: bool, hooks: Any, state: Any
) -> torch.nn.Parameter:
    """A parameter with attributes: without them."""
    return torch.nn.Parameter(data, requires_grad)


def _attribute(*args: Any) -> type[Inert]:
    """What ``getattr`` would give; it may be a class or a function."""
    return Inert


_OWN = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('collections', 'defaultdict'): _as_dict,
    ('collections', 'Counter'): _as_dict,
    ('torch._tensor', '_rebuild_from_type_v2'): _of_subclass,
    ('torch._utils', '_rebuild_parameter_with_state'): _with_state,
    **{
        (module, kind.__name__): kind
        for module in ('builtins', '__builtin__')
        for kind in (set, frozenset, complex)
    },
    **{(m, 'getattr'): _attribute for m in ('builtins', '__builtin__')},
}


class Unpickler(pickle.Unpickler):
    """Finds what builds tensors; gives :class:`Inert` for all else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in a pickle stands for."""
        if (module, name) in _OWN:
            return _OWN[module, name]
        if name in _BUILDERS.get(module, ()):
            return getattr(importlib.import_module(module), name, Inert)
        if module in ('torch', 'torch.cuda') and name.endswith('Storage'):
            return getattr(torch, name, Inert)
        if module == 'torch':
            value = getattr(torch, name, None)
            if isinstance(value, (torch.dtype, torch.layout)):
                return value
        return Inert


def load(file: Any, **kwargs: Any) -> Any:
    """As ``pickle.load``."""
    return Unpickler(file, **kwargs).load()


def flattened(content: Any) -> dict[str, Tensor]:
    """Every tensor under dicts of whatever depth, by its keys and dots.

    Modules that were saved whole give what their state dicts would. Optimizers
    are left out: they hold tensors of the weights' shapes.
    """
    found: dict[str, Tensor] = {}

    def collect(node: dict, front: str) -> None:
        for key, value in node.items():
            name = f'{front}{key}'
            if isinstance(value, Tensor):
                found[name] = value.detach()
                continue
            inner = _entries(value)
            if inner is not None and not str(key).startswith('optim'):
                collect(inner, f'{name}.')

    collect(_entries(content) or {}, '')
    return found


def _entries(value: Any) -> dict | None:
    """Of a dict, or of a module that became an :class:`Inert`."""
    if isinstance(value, dict):
        return value
    state = value.state if isinstance(value, Inert) else None
    if not isinstance(state, dict) or '_modules' not in state:
        return None
    places = (state.get(f'_{k}') for k in ('parameters', 'buffers', 'modules'))
    return {k: v for place in places if place for k, v in place.items()}
