# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The network in a file that a model can be filled from.

A file may hold it under any wrappers (``state_dict``, ``module.``,
``model.backbone.``), and more than one of them: MoCo's query and key, DINO's
student and teacher, a model and its moving average. A place in the file is a
front of its keys, whatever dicts and dots it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .leaves import Leaf, common_names
from .structure import align
from .tensors_only import Inert

# What of several networks a method evaluates: the first pattern that fits a
# place ranks it, and places that fit none have 0.
_RANKS = (
    (re.compile(r'(^|[._])(ema|swa|averaged?)([._]|$)'), -1),
    (re.compile(r'(^|[._])(momentum|target|encoder_k|key)([._]|$)'), -2),
    (re.compile(r'(^|\.)student\.'), -3),
    (re.compile(r'(^|\.)(teacher|encoder_q|query|online)\w*\.'), 1),
)
_EMA = _RANKS[0][0]
_SETTINGS = ('args', 'cfg', 'config', 'hparams', 'hyper_parameters', 'opt')
_USES_EMA = ('ema', 'model_ema', 'use_ema', 'with_ema')
# Outer keys of files, and what classes call the network that they wrap.
_OUTER = {'state_dict', 'model', 'model_state_dict', 'net', 'network'}
_DEPTH = 8
_ALMOST = 0.9
# Fewer norms than this are no network of the model's design.
_MOST = 0.3
_CLASSIFIER = re.compile(r'(head\.)?fc|classifier(\.\d+)?|head')


@dataclass
class Match:
    """A network of a file, and what it fills of a model.

    Attributes:
        place: front of its keys in the file, with its last dot.
        front: of the names in the model that it fills, with its last dot.
        pairs: names of the file's leaves by names of the model's.
        by_names: False where names differ, and shapes and order told.
    """

    place: str
    front: str
    pairs: dict[str, str]
    by_names: bool = True


def find_network(
    model: Mapping[str, Leaf],
    file: Mapping[str, Leaf],
    content: Any = None,
    part: str | None = None,
    prefix: str | None = None,
) -> tuple[Match, list[str]]:
    """The network that fills a model, and the others of the file.

    Args:
        model, file: their leaves.
        content: what the file holds, for what it says of a moving average.
        part: name of the network to take, a part of its place.
        prefix: fill the model with the part of the network of this name.

    Returns:
        The match, and the places of networks that would have fitted as well.

    Raises:
        CheckpointError: nothing fits, or ``part`` names no network.
    """
    named = list(_by_names(model, file, prefix))
    if part is not None:
        named = [m for m in named if _is_in(part, m.place)]
    rivals = _rivals(named)
    if prefix is None:
        rivals = [_completed(m, model, file) for m in rivals]
        filled = max((_filled_norms(m, model) for m in rivals), default=0)
        if filled < 1:
            aligned = _by_structure(model, file)
            if part is not None:
                aligned = [m for m in aligned if _is_in(part, m.place)]
            rivals = aligned or (rivals if filled > _MOST else [])
    if not rivals:
        raise CheckpointError(_nothing(model, file, part, prefix))
    return _chosen(rivals, content)


# -- names --
def _by_names(
    model: Mapping[str, Leaf], file: Mapping[str, Leaf], prefix: str | None
) -> Iterator[Match]:
    """Every place of the file that has names of a part of the model."""
    targets: dict[str, list[tuple[str, str]]] = {}
    fronts = _fronts(model) if prefix is None else ['']
    for name, common in common_names(model).items():
        for front in (f for f in fronts if name.startswith(f)):
            targets.setdefault(common[len(front) :], []).append((front, name))
    found: dict[tuple[str, str], dict[str, str]] = {}
    for name, common in common_names(file).items():
        parts = name.split('.')
        for depth in range(min(len(parts), _DEPTH)):
            place = ''.join(f'{p}.' for p in parts[:depth])
            if prefix is not None and not _ends_with(place, prefix):
                continue
            for front, target in targets.get(common[len(place) :], ()):
                found.setdefault((place, front), {})[target] = name
    for (place, front), pairs in found.items():
        yield Match(place, front, pairs)


def _fronts(model: Mapping[str, Leaf]) -> list[str]:
    """Parts of a model that a file may hold alone, and the model itself.

    Backbones, and a part that has all the norms.
    """
    norms = [n for n, leaf in model.items() if leaf.channels is not None]
    fronts = dict.fromkeys([''])
    for name in model:
        parts = name.split('.')
        for depth in (1, 2):
            front = ''.join(f'{p}.' for p in parts[:depth])
            whole = depth == 1 and all(n.startswith(front) for n in norms)
            if len(parts) > depth and (
                parts[depth - 1] == 'backbone' or (whole and norms)
            ):
                fronts[front] = None
    return list(fronts)


def _ends_with(place: str, prefix: str) -> bool:
    return f'.{place}'.endswith(f'.{prefix.rstrip(".")}.')


def _is_in(part: str, place: str) -> bool:
    names = [p for p in part.split('.') if p not in ('module', '_orig_mod')]
    return f'.{".".join(names)}.' in f'.{place}'


def _rivals(matches: Iterable[Match]) -> list[Match]:
    """Those that fill the most, none of them inside of another."""
    ordered = sorted(matches, key=lambda m: (-len(m.pairs), len(m.front)))
    kept: list[Match] = []
    for match in ordered:
        best = kept[0] if kept else match
        if match.front == best.front and (
            len(match.pairs) >= _ALMOST * len(best.pairs)
        ):
            if not any(_nested(match.place, k.place) for k in kept):
                kept.append(match)
    return kept


def _nested(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


# -- structure --
def _backbone_of(model: Mapping[str, Leaf], front: str) -> str:
    """Front of what a design is told by: a backbone, or the whole part."""
    own = f'{front}backbone.'
    return own if any(n.startswith(own) for n in model) else front


def is_classifier(name: str) -> bool:
    """Whether a layer is called as classifiers are."""
    return _CLASSIFIER.fullmatch(name) is not None


def _design(model: Mapping[str, Leaf], front: str) -> dict[str, Leaf]:
    return {
        n: leaf
        for n, leaf in model.items()
        if n.startswith(front) and not is_classifier(n)
    }


def _inside(leaves: Mapping[str, Leaf], place: str) -> dict[str, Leaf]:
    """Leaves under a place, by their names there."""
    return {
        n[len(place) :]: leaf
        for n, leaf in leaves.items()
        if n.startswith(place)
    }


def _filled_norms(match: Match, model: Mapping[str, Leaf]) -> float:
    """The share of the norms of the design that have a layer of the file."""
    own = _backbone_of(model, match.front)
    norms = [n for n, x in _design(model, own).items() if x.channels]
    return sum(n in match.pairs for n in norms) / max(len(norms), 1)


def _completed(
    match: Match, model: Mapping[str, Leaf], file: Mapping[str, Leaf]
) -> Match:
    """Names that fit in part (deep stems, excitations): the rest by order."""
    own = _backbone_of(model, match.front)
    place = match.place + own[len(match.front) :]
    used = set(match.pairs.values())
    wanted = {
        n: leaf
        for n, leaf in _design(model, own).items()
        if n not in match.pairs
        or file[match.pairs[n]].signature != leaf.signature
    }
    given = {
        n: leaf
        for n, leaf in _inside(file, place).items()
        if place + n not in used
        or place + n in {match.pairs.get(w) for w in wanted}
    }
    if not wanted or not given:
        return match
    aligned = align(wanted, given)
    if isinstance(aligned, str):
        return match
    pairs = {**match.pairs, **{n: place + g for n, g in aligned.items()}}
    return Match(match.place, match.front, pairs, by_names=False)


def _by_structure(
    model: Mapping[str, Leaf], file: Mapping[str, Leaf]
) -> list[Match]:
    """Places of the file with a network of the model's design."""
    front = _backbone_of(model, '')
    wanted = _design(model, front)
    norms = sum(leaf.channels is not None for leaf in wanted.values())
    if not norms:
        return []
    found: list[Match] = []
    for place in _places(file, norms):
        if any(_nested(place, m.place) for m in found):
            continue
        aligned = align(wanted, _inside(file, place))
        if not isinstance(aligned, str):
            pairs = {n: place + g for n, g in aligned.items()}
            found.append(Match(place, front, pairs, by_names=False))
    return [_with_classifier(m, model, file) for m in found]


def _places(file: Mapping[str, Leaf], norms: int) -> list[str]:
    """Fronts of keys with that many batch norms at least, deepest first."""
    counts: dict[str, int] = {}
    for name, leaf in file.items():
        if leaf.channels is None:
            continue
        parts = name.split('.')
        for depth in range(min(len(parts), _DEPTH)):
            place = ''.join(f'{p}.' for p in parts[:depth])
            counts[place] = counts.get(place, 0) + 1
    fitting = [place for place, count in counts.items() if count >= norms]
    return sorted(fitting, key=lambda place: -place.count('.'))


def _with_classifier(
    match: Match, model: Mapping[str, Leaf], file: Mapping[str, Leaf]
) -> Match:
    """The file's last linear layer, where the model has one of its shape."""
    own = [n for n in model if is_classifier(n)]
    used = set(match.pairs.values())
    theirs = [
        n
        for n, leaf in file.items()
        if n not in used
        and 'weight' in leaf.tensors
        and leaf.tensors['weight'].dim() == 2
    ]
    if len(own) == 1 and theirs:
        if file[theirs[-1]].signature == model[own[0]].signature:
            match.pairs[own[0]] = theirs[-1]
    return match


# -- without a model --
def place_of_network(
    file: Mapping[str, Leaf], content: Any = None, part: str | None = None
) -> str:
    """Where the network of a file begins, by what wrappers are called.

    Args:
        file, content, part: see :func:`find_network`.

    Raises:
        CheckpointError: ``part`` names none, or there are several.
    """
    places = [p for p in _places(file, 1) if part is None or _is_in(part, p)]
    if not places and part is None:
        return ''
    if not places:
        raise CheckpointError(f'part={part!r}: no part of the file with BN')
    place = '' if part is None else min(places, key=len)
    while True:
        inside = {p for p in places if p.startswith(place) and p != place}
        heads = {p[len(place) :].partition('.')[0] for p in inside}
        wrapped = [f'{place}{h}.' for h in sorted(heads) if _is_wrapper(h)]
        if not wrapped or (
            len(wrapped) < len(heads)
            and not any(_rank(w, False) for w in wrapped)
        ):
            return place
        matches = [Match(w, '', {}) for w in wrapped]
        place = _chosen(matches, content)[0].place


def _is_wrapper(name: str) -> bool:
    return _rank(f'{name}.', False) != 0 or name in _OUTER


# -- one of several --
def _chosen(rivals: list[Match], content: Any) -> tuple[Match, list[str]]:
    ema = says_ema(content)
    best = max(_rank(m.place, ema) for m in rivals)
    leading = [m for m in rivals if _rank(m.place, ema) == best]
    if len(leading) > 1:
        places = [m.place.rstrip('.') or '(all)' for m in leading]
        raise CheckpointError(
            f'the file holds {len(leading)} networks that fit the model: '
            f'{join_names(places)}; choose one with ?part='
            f'{places[0].rpartition(".")[2]}'
        )
    others = [m.place for m in rivals if m is not leading[0]]
    return leading[0], others


def _rank(place: str, ema: bool) -> int:
    if ema and _EMA.search(place):
        return 2
    for pattern, value in _RANKS:
        if pattern.search(place):
            return value
    return 0


def says_ema(content: Any) -> bool:
    """Whether the settings in a file say that its average is evaluated."""
    if not isinstance(content, Mapping):
        return False
    for name in _SETTINGS:
        settings = content.get(name)
        if isinstance(settings, Inert):
            settings = settings.state
        if isinstance(settings, Mapping) and any(
            settings.get(key) for key in _USES_EMA
        ):
            return True
    return False


def _nothing(
    model: Mapping[str, Leaf],
    file: Mapping[str, Leaf],
    part: str | None,
    prefix: str | None,
) -> str:
    """The sentence for a file in which nothing fits."""
    heads = [
        join_names(dict.fromkeys(_head(n) for n in leaves), 12)
        for leaves in (file, model)
    ]
    where = f', part={part!r}' if part else ''
    where += f', prefix={prefix!r}' if prefix else ''
    text = (
        f'no tensor of the file has a place in the model{where}: the file '
        f'holds {heads[0]}, the model {heads[1]}'
    )
    wanted = _design(model, _backbone_of(model, ''))
    norms = sum(leaf.channels is not None for leaf in wanted.values())
    places = _places(file, norms) if part is None and prefix is None else []
    reason = align(wanted, _inside(file, places[0])) if places else ''
    return f'{text}; {reason}' if isinstance(reason, str) and reason else text


def _head(name: str) -> str:
    parts = name.split('.')
    if parts[0] in ('backbone', 'roi_head') and len(parts) > 2:
        return '.'.join(parts[:2])
    return parts[0]
