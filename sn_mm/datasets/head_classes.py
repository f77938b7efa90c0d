# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether a detector's heads have as many classes as its data set.

mmdet trains with any number: labels that a head does not have are taken for
background, or read past the end of its scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# those that tell the data set's classes apart; an RPN does not
_HEADS = ('bbox_head', 'mask_head')


def mismatched_heads(model: Any, classes: Sequence[str]) -> list[str]:
    """A sentence for each head of another number of classes.

    Args:
        model: the config's.
        classes: names of the data set's classes.
    """
    count = len(classes)
    return [
        f'{name} of the model has num_classes={own}, but the data set has '
        f'{count} classes: write num_classes={count}, or the classes that '
        'are meant as metainfo=dict(classes=...)'
        for name, own in _counts(model)
        if own != count
    ]


def _counts(
    part: Any, name: str = '', is_head: bool = False
) -> Iterator[tuple[str, int]]:
    """Names of heads, and their ``num_classes`` where the config has it."""
    if isinstance(part, Mapping):
        own = part.get('num_classes')
        if is_head and isinstance(own, int):
            yield name, own
        for key, value in part.items():
            inner = f'{name}.{key}' if name else str(key)
            yield from _counts(value, inner, key in _HEADS)
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _counts(value, f'{name}[{index}]', is_head)
