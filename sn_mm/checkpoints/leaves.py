# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The layers that a state dict is made of, in a file and in a model.

A leaf is a layer with tensors of its own: a convolution, a norm, a classifier.
Names differ from library to library; what a leaf is does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from sn_mm.anatomy.norms import find_norms, num_channels
from sn_mm.layers import RowNorm

_NORMS = (RowNorm, _BatchNorm, _InstanceNorm, nn.GroupNorm)
# What libraries call norm layers, with a number behind.
_NORM_NAMES = {'bn', 'gn', 'in', 'ln', 'sn', 'norm', 'norm_layer'}
# What wrappers put into names, wherever they sit.
_WRAPPERS = {
    '_orig_mod',
    '_fsdp_wrapped_module',
    '_checkpoint_wrapped_module',
    '_forward_module',
}


@dataclass
class Leaf:
    """A layer of a state dict.

    Attributes:
        name: dotted.
        tensors: its own, by their last names.
        channels: C of a norm (of a batch norm, in a file), else None.
        module: of a model's norm.
    """

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    channels: int | None = None
    module: nn.Module | None = None

    @property
    def signature(self) -> tuple:
        """Equal in a file and a model where one can fill the other.

        A linear layer and a 1 x 1 convolution can. A bias tells a layer norm
        from a scale, and nothing else.
        """
        if self.channels is not None:
            return ('norm', self.channels)
        weight = self.tensors.get('weight', self.single)
        if weight is not None and weight.dim() == 1:
            return ('weight', len(weight), len(self.tensors) > 1)
        if weight is not None:
            return ('weight', *without_ones(weight.shape))
        shapes = [tuple(t.shape) for t in self.tensors.values()]
        return ('other', *sorted(shapes))

    @property
    def single(self) -> Tensor | None:
        """The only tensor of numbers, as of a scale; indices do not count."""
        floating = [t for t in self.tensors.values() if t.is_floating_point()]
        return floating[0] if len(floating) == 1 else None


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of a 1 x 1 kernel."""
    shape = tuple(shape)
    return shape[:2] if set(shape[2:]) == {1} else shape


def leaves_of_file(state: Mapping[str, Tensor]) -> dict[str, Leaf]:
    """By name, in the file's order; batch norms by evidence."""
    leaves: dict[str, Leaf] = {}
    for key, value in state.items():
        layer, _, own = key.rpartition('.')
        leaves.setdefault(layer, Leaf(layer)).tensors[own] = value
    for leaf in leaves.values():
        leaf.channels = _batch_norm_channels(leaf.tensors)
    return leaves


def _batch_norm_channels(tensors: Mapping[str, Tensor]) -> int | None:
    """C where four tensors (C,), or two without affine ones, are there."""
    mean, var = (tensors.get(f'running_{n}') for n in ('mean', 'var'))
    if mean is None or var is None or mean.dim() != 1:
        return None
    affine = [tensors.get(n) for n in ('weight', 'bias')]
    given = [t for t in affine if t is not None]
    if 'mean_weight' in tensors or len(given) == 1:
        return None
    fits = all(t.shape == mean.shape for t in (var, *given))
    return len(mean) if fits else None


def leaves_of_model(model: nn.Module) -> dict[str, Leaf]:
    """By name, in the model's order; a norm's tensors are one leaf."""
    kinds = {m for m in find_norms(model).values() if isinstance(m, _NORMS)}
    norms = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if module in kinds
    }
    leaves: dict[str, Leaf] = {}
    for key, value in model.state_dict().items():
        layer, _, own = key.rpartition('.')
        while layer and layer not in norms:
            layer = layer.rpartition('.')[0]
        if layer not in norms:
            layer, _, own = key.rpartition('.')
            leaves.setdefault(layer, Leaf(layer)).tensors[own] = value
            continue
        if layer not in leaves:
            module = norms[layer]
            leaves[layer] = Leaf(layer, {}, num_channels(module), module)
        own = key[len(layer) + 1 :] if layer else key
        leaves[layer].tensors[own] = value
    return leaves


def common_names(leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """What every leaf is called, whatever its norm: bn1 for sn1 and norm1.

    Returns:
        By name; a leaf keeps its own name where two would share one.
    """
    made: dict[str, str] = {}
    taken: dict[str, int] = {}
    for name, leaf in leaves.items():
        made[name] = _common_name(name, leaf)
        taken[made[name]] = taken.get(made[name], 0) + 1
    return {n: c if taken[c] == 1 else n for n, c in made.items()}


def _common_name(name: str, leaf: Leaf) -> str:
    front, dot, last = name.rpartition('.')
    match = re.fullmatch(r'([a-z_]+)(\d*)', last)
    if match is None:
        return name
    known = {*_NORM_NAMES, getattr(leaf.module, '_abbr_', 'bn')}
    return f'{front}{dot}bn{match[2]}' if match[1] in known else name


def without_wrappers(
    state: Mapping[str, Tensor], keep_module: bool = False
) -> dict[str, Tensor]:
    """Names without what DDP, FSDP and torch.compile put into them.

    Args:
        state: of a file.
        keep_module: leave parts called 'module', where the model has such.
    """
    dropped = _WRAPPERS if keep_module else {*_WRAPPERS, 'module'}
    made = {
        key: '.'.join(p for p in key.split('.') if p not in dropped)
        for key in state
    }
    if len(set(made.values())) < len(made):
        return dict(state)
    return {made[key]: value for key, value in state.items()}
