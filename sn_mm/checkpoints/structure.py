# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Two networks of one design under different names, layer by layer.

torchvision's MobileNetV2 has ``features.1.conv.0.0`` where mmdet's has
``layer1.0.conv.0.conv``. Libraries register the layers of a design in the
order in which they run, so layers of one shape follow each other in the same
order. Two kinds are registered now first, now last: shortcuts, and the
transitions between stages. Their names tell them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from .leaves import Leaf

# Roles that decide between layers of one shape where both sides name them.
_ROLES = {
    'shortcut': re.compile(
        r'(identity_)?(down_?sample|shortcut|skip|proj)(_layer)?'
    ),
    'transition': re.compile(r'transitions?\d*|norm5'),
    'excitation': re.compile(r'se(_layer|_module)?|attn'),
}


def align(
    wanted: Mapping[str, Leaf], given: Mapping[str, Leaf]
) -> dict[str, str] | str:
    """The layer of a file for every layer of a model.

    Args:
        wanted: leaves of the model, in its order.
        given: leaves of the file, in its order; it may have more of them,
            behind the others or in parts of their own.

    Returns:
        Names of the file by names of the model; or, where it is another
        design, a sentence that says what differs.
    """
    for follows in (True, False):
        # first with norms told by the convolutions that they follow, too
        aligned = _aligned(wanted, given, follows)
        if not isinstance(aligned, str):
            break
    return aligned


def _aligned(
    wanted: Mapping[str, Leaf], given: Mapping[str, Leaf], follows: bool
) -> dict[str, str] | str:
    queues = _by_signature(given, follows)
    found: dict[str, str] = {}
    for signature, names in _by_signature(wanted, follows).items():
        offered = queues.get(signature, [])
        pairs = _in_order(names, offered)
        if pairs is None:
            return (
                f'the model has {len(names)} layers of '
                f'{_in_words(signature)} ({names[-1]}), the file '
                f'{len(offered)}'
            )
        found.update(pairs)
    extra = surplus(given, set(found.values()))
    if extra:
        return f'the file has {extra[0]}, for which the model has no place'
    return {name: found[name] for name in wanted}


def _by_signature(
    leaves: Mapping[str, Leaf], follows: bool
) -> dict[tuple, list[str]]:
    found: dict[tuple, list[str]] = {}
    before: tuple = ()
    for name, leaf in leaves.items():
        signature = leaf.signature
        if leaf.channels is None:
            before = signature
        elif follows:
            own = before[:2] == ('weight', leaf.channels)
            signature, before = (*signature, before if own else ()), ()
        found.setdefault(signature, []).append(name)
    return found


def _in_order(names: list[str], offered: list[str]) -> dict | None:
    """One for each, in order: by role where both sides name the roles."""
    if len(offered) < len(names):
        return None
    roles = [_by_role(names), _by_role(offered)]
    if any(len(v) > len(roles[1].get(k, ())) for k, v in roles[0].items()):
        return dict(zip(names, offered))
    return {
        name: other
        for role, own in roles[0].items()
        for name, other in zip(own, roles[1][role])
    }


def _by_role(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        parts = name.split('.')
        role = next(
            (
                role
                for role, pattern in _ROLES.items()
                if any(pattern.fullmatch(p) for p in parts)
            ),
            '',
        )
        found.setdefault(role, []).append(name)
    return found


def _in_words(signature: tuple) -> str:
    kind, *shape = signature
    if kind == 'norm':
        return f'batch norms of {shape[0]} channels'
    return f'shape {"x".join(map(str, shape))}'


def surplus(given: Mapping[str, Leaf], used: set[str]) -> list[str]:
    """Layers among the used ones that a network of that depth lacks.

    A classifier, projection heads, a last stage that the model leaves out
    are parts of their own, without any used layer. What lies between used
    layers, or goes on as they do, belongs to a deeper network.
    """
    tops = {_top(name) for name in used}
    order = list(given)
    last = max(order.index(name) for name in used)
    extra = []
    for index, name in enumerate(order):
        if name in used:
            continue
        # a number is a layer in a sequence, a name may be a part
        part = _top(name) not in tops and not _top(name).isdigit()
        if not part and (index < last or _goes_on(name, given, used)):
            extra.append(name)
    return extra


def _top(name: str) -> str:
    return name.partition('.')[0]


def _goes_on(name: str, given: Mapping[str, Leaf], used: set[str]) -> bool:
    """Whether it belongs to one more block like the used one before it."""
    parts = name.split('.')
    for depth in range(1, len(parts) + 1):
        front = '.'.join(parts[:depth])
        own = [n for n in given if f'{n}.'.startswith(f'{front}.')]
        if used.isdisjoint(own):
            break
    parent = front.rpartition('.')[0]
    siblings: dict[str, list[str]] = {}
    for other in given:
        if other.startswith(f'{parent}.' if parent else ''):
            child = other[len(parent) + 1 if parent else 0 :].partition('.')[0]
            siblings.setdefault(child, []).append(other)
    mine = _shapes(given, own)
    return any(
        _shapes(given, names) == mine
        for names in siblings.values()
        if not used.isdisjoint(names)
    )


def _shapes(given: Mapping[str, Leaf], names: Iterable[str]) -> Counter:
    return Counter(given[name].signature for name in names)
