# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A pickle for checkpoints of training runs that builds tensors alone.

Has the names of the module ``pickle`` that ``torch.load`` asks for. mmengine
puts log buffers and NumPy numbers beside the weights. Whatever belongs to
those becomes a :class:`PassedOver`: none of it is imported, called or built.
Other names than these and torch's own are refused.
"""

from __future__ import annotations

import importlib
import pickle
from pickle import UnpicklingError
from typing import Any

__all__ = ['PassedOver', 'Unpickler', 'UnpicklingError', 'load']

_TENSORS = {
    'collections': ('OrderedDict',),
    'torch': ('Size', 'device', 'dtype', 'Tensor'),
    'torch._utils': (
        '_rebuild_parameter',
        '_rebuild_tensor',
        '_rebuild_tensor_v2',
    ),
    'torch.nn.parameter': ('Parameter',),
    'torch.serialization': ('_get_layout',),
}
_BESIDE = ('numpy', 'mmengine', 'collections', 'datetime')
# Methods of a buffer are getattr(its class, name); NumPy's bytes are encoded
# text.
_BESIDE_NAMES = (
    ('builtins', 'getattr'),
    ('__builtin__', 'getattr'),
    ('_codecs', 'encode'),
)


class PassedOver:
    """Stands for anything that is not needed; takes whatever it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


class Unpickler(pickle.Unpickler):
    """Finds torch's tensors, passes over what mmengine adds."""

    def find_class(self, module: str, name: str) -> Any:
        """A name in a pickle; raises UnpicklingError where it is foreign."""
        if name in _TENSORS.get(module, ()):
            return getattr(importlib.import_module(module), name)
        if module == 'torch' and name.endswith('Storage'):
            return getattr(importlib.import_module(module), name)
        beside = module.partition('.')[0] in _BESIDE
        if beside or (module, name) in _BESIDE_NAMES:
            return PassedOver
        raise UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')


def load(file: Any, **kwargs: Any) -> Any:
    """As ``pickle.load``."""
    return Unpickler(file, **kwargs).load()
