# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the layers of a model say that they are not."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from sn_mm.layers import RowNorm
from sn_mm.utils import join_names


def caveats(norms: Mapping[str, nn.Module]) -> list[str]:
    """A line for each caveat of the layers, see :meth:`RowNorm.caveat`.

    Args:
        norms: of a model, by name.
    """
    names: dict[str, list[str]] = {}
    for name, module in norms.items():
        text = module.caveat() if isinstance(module, RowNorm) else None
        if text is not None:
            names.setdefault(text, []).append(name)
    return [
        f'{len(own)} layers ({join_names(own, 3)}): {text}'
        for text, own in names.items()
    ]
