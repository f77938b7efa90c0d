# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Filling a model from a network with BN, whatever its own norms are."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sn_mm.anatomy.norms import find_norms, has_ratios, sets_ratios
from sn_mm.anatomy.starts import (
    frozen_in_training,
    note_start,
    noted_start,
)
from sn_mm.layers import RowNorm
from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .bn import (
    Ratios,
    bn_to_sn,
    in_words,
    is_folded,
    refuse_folded,
    share_of_bn,
    take_over,
    without_bn,
)
from .convert import check_finite
from .leaves import (
    Leaf,
    leaves_of_file,
    leaves_of_model,
    without_wrappers,
)
from .networks import Match, find_network, is_classifier, place_of_network
from .reader import read_content
from .report import Dropped, Report, Used
from .structure import surplus
from .tensors_only import flattened

_ALONE = 1 - 1e-4  # a ratio above which the others do not count


@dataclass
class BNFile:
    """A file with a network with BN somewhere in it.

    Attributes:
        path: where it was read.
        content: what it holds: see :func:`.reader.read_content`.
        tensors: all of it, by the keys that lead there, joined by dots.
    """

    path: Path
    content: Any
    tensors: dict[str, Tensor]


@dataclass
class _Plan:
    """What a model will be given.

    Attributes:
        model, file: leaves.
        pairs: names in the file by names in the model.
        said: lines for the account.
        fresh: names in the model that are known to start anew.
    """

    model: dict[str, Leaf]
    file: dict[str, Leaf]
    pairs: dict[str, str]
    said: list[str] = field(default_factory=list)
    fresh: set[str] = field(default_factory=set)

    def drop(self, name: str) -> None:
        del self.pairs[name]


def read_bn_file(path: Path, progress: bool = False) -> BNFile:
    """Read a file of any layout: see :func:`.reader.read_content`.

    Raises:
        CheckpointError: it cannot be read, or holds no tensors.
    """
    content = read_content(path, progress)
    tensors = flattened(content)
    if not tensors:
        kind = type(content).__name__
        raise CheckpointError(
            f'{path} holds no weights: no tensors under names, but a {kind}'
        )
    return BNFile(path, content, tensors)


def bn_state(
    model: nn.Module,
    file: BNFile,
    options: Mapping[str, str],
    prefix: str | None,
    report: Report,
) -> OrderedDict[str, Tensor]:
    """State of a model out of a network with BN.

    The model is only looked at. Its norms may be of any kind: BN takes all,
    SN affine parameters and running statistics, and ratios as asked for;
    GN, IN and others the affine parameters.

    Args:
        model: to be filled.
        file: see :func:`read_bn_file`.
        options: 'ratios' and 'part', see docs/checkpoints.md.
        prefix: take only the part of the file with this name.
        report: filled with what happens to every layer.

    Raises:
        CheckpointError: the file has no BN, or none that fits the model, or
            one that is folded, damaged, or of another depth.
    """
    share = share_of_bn(options.get('ratios', 'equal'))
    own = leaves_of_model(model)
    modules = any('module' in n.split('.') for n in own)
    leaves = leaves_of_file(without_wrappers(file.tensors, modules))
    if not any(leaf.channels for leaf in leaves.values()):
        raise CheckpointError(without_bn(file.tensors))
    match, others = find_network(
        own, leaves, file.content, options.get('part'), prefix
    )
    said = _introduced(model, match, others)
    plan = _Plan(own, leaves, dict(match.pairs), said)
    _compare_shapes(plan)
    _compare_norms(plan)
    _compare_parts(plan)
    _compare_biases(plan)
    _compare_depth(plan, match)
    frozen = frozen_in_training(model)
    _refuse_folded(plan, share, frozen)
    report.said += plan.said
    return _assembled(plan, match, share, frozen, report)


def plain_state(
    file: BNFile, options: Mapping[str, str], report: Report
) -> OrderedDict[str, Tensor]:
    """A state dict with SN out of a network with BN, for no model at all.

    Without its wrappers, but under the names of the file: bn1 is sn1.

    Args:
        file, options, report: see :func:`bn_state`.

    Raises:
        CheckpointError: no BN in it, folded BN, NaN, no such part.
    """
    tensors = without_wrappers(file.tensors)
    leaves = leaves_of_file(tensors)
    try:
        place = place_of_network(leaves, file.content, options.get('part'))
        inside = {
            key[len(place) :]: value
            for key, value in tensors.items()
            if key.startswith(place)
        }
        report.dropped += [
            Dropped(key, 'of no network, or of another')
            for key in tensors
            if not key.startswith(place)
        ]
        return bn_to_sn(inside, report, options.get('ratios', 'equal'))
    except CheckpointError as error:
        raise CheckpointError(f'{file.path}: {error}') from error


def finish(model: nn.Module, report: Report) -> None:
    """After the state is loaded: what no state dict says.

    Frozen layers go on with the running statistics of their BN in training,
    too; and every norm knows where it started.
    """
    for name, layer in find_norms(model).items():
        text = report.starts.get(name)
        if text is None:
            # not filled by this file, whatever a config says
            note_start(layer, noted_start(layer) or 'new')
        else:
            note_start(layer, f'{report.source}: {text}')
    hold_frozen(model, report.starts)


def hold_frozen(model: nn.Module, names: Container[str]) -> None:
    """Frozen layers that are BN compute in training what they do at test.

    BN alone by their ratios, or by their rule in evaluation mode. Batch
    statistics would make another network of a frozen one.

    Args:
        model: changed in place: ``bn_eval`` of such layers.
        names: of the layers in question.
    """
    frozen = frozen_in_training(model)
    for name, layer in find_norms(model).items():
        if name in names and layer in frozen and _is_bn(layer):
            layer.bn_eval = True


def _takes_bn(layer: nn.Module) -> bool:
    return sets_ratios(layer) and 'bn' in layer.statistics


def _is_bn(layer: nn.Module) -> bool:
    if not has_ratios(layer):
        return (
            isinstance(layer, RowNorm)
            and layer.inference_moments() is not None
        )
    if 'bn' not in layer.statistics:
        return False
    bn = layer.statistics.index('bn')
    return all(
        bool((r[..., bn] > _ALONE).all()) for r in layer.ratios().values()
    )


def _introduced(
    model: nn.Module, match: Match, others: list[str]
) -> list[str]:
    said = []
    if others:
        names = join_names([o.rstrip('.') or '(all)' for o in others])
        said.append(
            f'the file holds {len(others) + 1} networks: '
            f'{match.place.rstrip(".")} is taken, another ({names}) by ?part='
        )
    if not match.by_names:
        pairs = {m: f[len(match.place) :] for m, f in match.pairs.items()}
        # one that differs in more than its front, if there is any
        name = next(
            (m for m, f in pairs.items() if not m.endswith(f)),
            next(iter(pairs)),
        )
        said.append(
            'names differ, layers were told by shape and order: '
            f'{pairs[name]} is {name}'
        )
        if _pads_as_tensorflow(model):
            said.append(
                'the model pads as TensorFlow does (Conv2dAdaptivePadding), '
                'which no key of a file shows: networks that pad both sides '
                'alike give something else on pictures of even sizes'
            )
    return said


def _pads_as_tensorflow(model: nn.Module) -> bool:
    # whoever built such a model has imported mmcv; others may not have it
    bricks = sys.modules.get('mmcv.cnn.bricks')
    return bricks is not None and any(
        isinstance(m, bricks.Conv2dAdaptivePadding) for m in model.modules()
    )


# -- does it fit? --
def _part(name: str, model: Mapping[str, Leaf]) -> str:
    """The part of a model that a file fills whole or not at all.

    A backbone, a neck, each head; a model without a backbone is one part.
    """
    if not any(n.startswith('backbone.') for n in model):
        return ''
    parts = name.split('.')
    depth = 2 if parts[0] == 'roi_head' else 1
    if len(parts) > depth + 1 and parts[depth].isdigit():
        depth += 1
    return '.'.join(parts[:depth])


def _parts(plan: _Plan) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for name in plan.model:
        parts.setdefault(_part(name, plan.model), []).append(name)
    return parts


def _is_trunk(part: str) -> bool:
    return part in ('', 'backbone', 'neck')


def _compare_shapes(plan: _Plan) -> None:
    """Layers of other sizes: class layers start fresh, others are refused."""
    wrong = []
    for name, source in list(plan.pairs.items()):
        own, given = plan.model[name], plan.file[source]
        if own.module is not None or _same_shapes(own, given):
            continue
        if _is_class_layer(name, own, given, plan):
            sizes = [len(next(iter(x.tensors.values()))) for x in (given, own)]
            plan.drop(name)
            plan.fresh.add(name)
            plan.said.append(
                f'{name} starts fresh: {sizes[0]} outputs in the file, '
                f'{sizes[1]} in the model'
            )
        else:
            wrong.append((name, own, given))
    if wrong:
        name, own, given = wrong[0]
        more = f' ({len(wrong) - 1} more)' if wrong[1:] else ''
        raise CheckpointError(
            f'{name} has shape {_shape(given)} in the file and {_shape(own)} '
            f"in the model{more}: set the model's sizes to the file's"
        )


def _same_shapes(own: Leaf, given: Leaf) -> bool:
    return own.signature == given.signature and all(
        given.tensors[n].numel() == value.numel()
        for n, value in own.tensors.items()
        if n in given.tensors
    )


def _is_class_layer(name: str, own: Leaf, given: Leaf, plan: _Plan) -> bool:
    """Whether only the number of outputs differs, in a head."""
    if _is_trunk(_part(name, plan.model)) and not is_classifier(name):
        return False
    return all(
        given.tensors[n].shape[1:] == value.shape[1:]
        for n, value in own.tensors.items()
        if n in given.tensors
    )


def _shape(leaf: Leaf) -> tuple[int, ...]:
    first = leaf.tensors.get('weight')
    if first is None:
        first = next(iter(leaf.tensors.values()))
    return tuple(first.shape)


def _compare_biases(plan: _Plan) -> None:
    """A bias on one side alone, where the norms around it are the file's."""
    for part, names in _parts(plan).items():
        norms = [n for n in names if plan.model[n].module is not None]
        if not _is_trunk(part) or any(n not in plan.pairs for n in norms):
            continue
        for name in names:
            own = plan.model[name]
            source = plan.pairs.get(name)
            if source is None or own.module is not None:
                continue
            biases = [
                leaf.tensors.get('bias') for leaf in (own, plan.file[source])
            ]
            # one that is 0 changes nothing
            has = [b is not None and bool(b.any()) for b in biases]
            if biases.count(None) == 1 and any(has):
                side = 'model' if has[0] else 'file'
                raise CheckpointError(
                    f'{name} has a bias in the {side} alone: the model is of '
                    'another design than the file'
                )


def _compare_norms(plan: _Plan) -> None:
    """Norms take batch norms of their size, or what is of their own kind."""
    for name, source in list(plan.pairs.items()):
        own, given = plan.model[name], plan.file[source]
        if own.module is None:
            continue
        if given.channels is not None and given.channels != own.channels:
            raise CheckpointError(
                f'{name} has {own.channels} channels, {source} of the file '
                f'{given.channels}: the model is of another width or depth '
                'than the file'
            )
        if given.channels is None and not _is_alike(own, given):
            plan.drop(name)


def _is_alike(own: Leaf, given: Leaf) -> bool:
    """Whether a norm that is no BN is of the model's kind."""
    return all(
        n in given.tensors and given.tensors[n].shape == value.shape
        for n, value in own.tensors.items()
    ) and ('mean_weight' in own.tensors or not isinstance(own.module, RowNorm))


def _compare_parts(plan: _Plan) -> None:
    """Parts are filled, or have no norms in the file, or are refused."""
    for part, names in _parts(plan).items():
        missing = [n for n in names if n not in plan.pairs]
        if not missing or len(missing) == len(names):
            continue
        norms = [n for n in names if plan.model[n].module is not None]
        lacking = [n for n in norms if n not in plan.pairs]
        if lacking and (len(lacking) < len(norms) or _is_backbone(part)):
            raise CheckpointError(
                f'{len(lacking)} of {len(norms)} norms of '
                f'{part or "the model"} are missing in the file '
                f'({join_names(lacking, 3)}): the model is of another depth '
                'or design than the file, or the file is damaged'
            )
        others = [n for n in missing if n not in norms and _counts(n, plan)]
        if others and norms and not lacking:
            raise CheckpointError(
                f'the file fills {part or "the model"} only in part; it has '
                f'no {join_names(others)}: the model is of another depth or '
                'design than the file'
            )
        if lacking:
            text = f'{len(lacking)} norms start fresh'
            others and plan.said.append(
                f'{part}: {join_names(others, 3)} start fresh'
            )
            plan.said.append(f'{part}: the file has no batch norms; {text}')


def _is_backbone(part: str) -> bool:
    return part in ('', 'backbone')


def _counts(name: str, plan: _Plan) -> bool:
    """Whether a layer matters that the file lacks.

    Class layers were dealt with; a layer that is all zeros, as offsets of
    deformable convolutions are at first, changes nothing.
    """
    if is_classifier(name) or name in plan.fresh:
        return False
    return any(bool(t.any()) for t in plan.model[name].tensors.values())


def _compare_depth(plan: _Plan, match: Match) -> None:
    """Layers of the file in the midst of those that the model takes."""
    front = match.front
    if not front and any(n.startswith('backbone.') for n in plan.model):
        front = 'backbone.'
    place = match.place
    if match.by_names:
        place += front[len(match.front) :]
    own = {
        n[len(place) :]: leaf
        for n, leaf in plan.file.items()
        if n.startswith(place)
    }
    used = {
        source[len(place) :]
        for name, source in plan.pairs.items()
        if name.startswith(front) and source.startswith(place)
    }
    extra = surplus(own, used) if used else []
    if extra:
        raise CheckpointError(
            f'the file has {join_names(extra, 3)}, for which the model has '
            'no place: the model is of another depth or design than the file'
        )


def _refuse_folded(
    plan: _Plan, share: float | None, frozen: set[nn.Module]
) -> None:
    """Folded BN, wherever a layer would take more than BN's share."""
    refused = []
    for name, source in plan.pairs.items():
        layer, given = plan.model[name].module, plan.file[source]
        if layer is None or given.channels is None:
            continue
        if not isinstance(layer, RowNorm) and hasattr(layer, 'running_mean'):
            if layer.running_mean is not None:
                continue
        if _takes_bn(layer):
            if Ratios.of(layer, layer in frozen).share(share) == 1:
                continue
        if is_folded(given.tensors):
            refused.append(source)
    refuse_folded(refused)


# -- the state --
def _assembled(
    plan: _Plan,
    match: Match,
    share: float | None,
    frozen: set[nn.Module],
    report: Report,
) -> OrderedDict[str, Tensor]:
    state: OrderedDict[str, Tensor] = OrderedDict()
    used: dict[str, set[str]] = {}
    for name, own in plan.model.items():
        source = plan.pairs.get(name)
        if source is None:
            continue
        given, short = plan.file[source], source[len(match.place) :]
        for key, value in given.tensors.items():
            check_finite(_join(source, key), value)
        change = 'as it is'
        if own.module is not None and given.channels is not None:
            still = own.module in frozen
            made = take_over(
                own.module, own.tensors, given.tensors, share, still, name
            )
            start = ''
            if sets_ratios(own.module):
                start = in_words(Ratios.of(own.module, still).share(share))
                change = f'adds ratios: {start}'
            report.starts[name] = f'{short}, {start}' if start else short
        else:
            made = _copied(own, given)
        used[source] = set(made)
        for key, value in made.items():
            state[_join(name, key)] = value
            if key in given.tensors:
                report.used.append(
                    Used(
                        _join(short, key),
                        tuple(value.shape),
                        _join(name, key),
                        change if key == 'bias' else 'as it is',
                    )
                )
    _account(plan, match, used, report)
    return state


def _copied(own: Leaf, given: Leaf) -> dict[str, Tensor]:
    """Tensors of a layer that is no norm, in the shapes of the model."""
    theirs = dict(given.tensors)
    if own.single is not None and given.single is not None:
        name = next(n for n, t in own.tensors.items() if t is own.single)
        theirs.setdefault(name, given.single)
    return {
        n: theirs[n].reshape(value.shape)
        for n, value in own.tensors.items()
        if n in theirs
    }


def _join(layer: str, own: str) -> str:
    return f'{layer}.{own}' if layer else own


def _account(
    plan: _Plan, match: Match, used: dict[str, set[str]], report: Report
) -> None:
    for source, leaf in plan.file.items():
        if not source.startswith(match.place):
            continue
        report.dropped += [
            Dropped(
                _join(source[len(match.place) :], key), 'no place in the model'
            )
            for key in leaf.tensors
            if key not in used.get(source, ())
        ]
