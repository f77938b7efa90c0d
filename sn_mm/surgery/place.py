# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How many spatial axes there are where a norm stands.

Group norms, synchronized batch norms and SN take any number; BatchNorm2d,
which may be what they are to become, takes two.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sn_mm.anatomy.norms import dimension

_DEFAULT = 2


def axes_at(model: nn.Module, name: str) -> int | None:
    """Spatial axes of what the layer called ``name`` is given.

    Read off the module before it in its parent, or, where it is the first,
    the one after it; what has no parameters changes nothing.

    Returns:
        0 (behind a Linear), 1, 2 or 3; 2 where no neighbour has parameters;
        None where a neighbour might do anything.
    """
    parent, _, own = name.rpartition('.')
    children = list(model.get_submodule(parent).named_children())
    names = [n for n, _ in children]
    if own not in names:
        return _DEFAULT
    index = names.index(own)
    before = [m for _, m in reversed(children[:index])]
    after = [m for _, m in children[index + 1 :]]
    for neighbours in (before, after):
        for module in neighbours:
            if next(module.parameters(), None) is not None:
                return _axes_of(module, last=neighbours is before)
    return _DEFAULT


def _axes_of(module: nn.Module, last: bool) -> int | None:
    """Axes at a module's output, or its input where not ``last``."""
    if isinstance(module, _ConvNd):
        return len(module.kernel_size)
    if isinstance(module, nn.Linear):
        return 0
    number = dimension(type(module))
    if number is not None:
        return number
    if next(module.parameters(recurse=False), None) is not None:
        return None
    children = list(module.children())
    for child in reversed(children) if last else children:
        if next(child.parameters(), None) is not None:
            return _axes_of(child, last)
    return _DEFAULT
