# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Layers in models that torch.jit.script compiles.

A scripted model has the layer's tensors and simple attributes, but none of
its Python. It calls the layer's forward as Python, with a script module for
``self``; out of that and of what is kept here, the layer is made again.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = set(vars(nn.Module()))


class _Kept(NamedTuple):
    """What a script module does not have of a layer."""

    cls: type
    attributes: dict[str, Any]
    parameters: tuple[str, ...]  # None among them, too
    buffers: tuple[str, ...]
    modules: tuple[str, ...]


_kept: list[_Kept] = []  # for good, as torch keeps what it compiled


def called_from_script(forward: Callable) -> Callable:
    """Let scripted models call a layer's forward in Python."""

    @torch.jit.ignore
    @functools.wraps(forward)
    def call(self, input):
        if isinstance(self, torch.jit.ScriptModule):
            return _call_scripted(self, input)
        return forward(self, input)

    # which torch.jit.script cannot read as strings
    call.__annotations__ = {'input': Tensor, 'return': Tensor}
    del call.__wrapped__
    return call


def prepare_to_script(layer: nn.Module) -> None:
    """Keep what the script module that a layer becomes will not have."""
    layer._script_number = len(_kept)
    own = {n: v for n, v in vars(layer).items() if n not in _OF_EVERY_MODULE}
    _kept.append(
        _Kept(
            type(layer),
            own,
            tuple(layer._parameters),
            tuple(layer._buffers),
            tuple(layer._modules),
        )
    )


def _call_scripted(script_module: torch.jit.ScriptModule, x: Tensor) -> Tensor:
    """Forward of the layer that became this module, on its tensors."""
    kept = _kept[script_module._script_number]
    # attributes as they are now, where script modules can have such
    own = {n: getattr(script_module, n, v) for n, v in kept.attributes.items()}
    layer = kept.cls.__new__(kept.cls)
    nn.Module.__init__(layer)
    vars(layer).update(own)
    layer.training = script_module.training
    for tensors, names in (
        (layer._parameters, kept.parameters),
        (layer._buffers, kept.buffers),
        (layer._modules, kept.modules),
    ):
        tensors.update({n: getattr(script_module, n, None) for n in names})
    y = layer.forward(x)
    for name, value in own.items():
        if getattr(layer, name) is not value:  # such as: has warned
            setattr(script_module, name, getattr(layer, name))
    return y
