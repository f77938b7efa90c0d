# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A student's teacher: the same network with BN, from a file of BN weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sn_mm.anatomy import find_norms
from sn_mm.checkpoints.bn import bn_layers
from sn_mm.checkpoints.leaves import without_wrappers
from sn_mm.checkpoints.sources import BN, SN, open_files, parse
from sn_mm.layers import RowNorm
from sn_mm.surgery.convert_norm import swap_norms
from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .outputs import taught_modules
from .unfold import is_folded

# in old files BN does not count its batches
_OPTIONAL = 'num_batches_tracked'
# what mmcv and torchvision call norms, with a number behind
_NORM_NAME = re.compile(r'(.*\.|)(bn|norm_layer)(\d*)')
_ANY_NAME = re.compile(r'(.*\.|)([a-z_]+?)(\d*)')


@dataclass
class Teacher:
    """A network with BN, in evaluation mode, that nothing trains.

    Attributes:
        model: named as the student.
        norms: names of its BN layers where the student has another norm.
        folded: whether the file's statistics are folded into its weights;
            then :func:`.unfold.unfold` the model, and
            :func:`begin` after that.
        meta: of the file.
    """

    model: nn.Module
    norms: list[str]
    folded: bool = False
    meta: dict = field(default_factory=dict)


def make_teacher(
    student: nn.Module,
    source: str,
    parts: Sequence[str],
    eps: float | None = None,
) -> Teacher:
    """Copy a student with BN for its norms, and fill it from a file.

    Norms that have no running statistics in the file are no BN there, and
    stay what they are.

    Args:
        student: built from its config; not changed.
        source: a file, a URL or a name of the toolboxes' schemes, with
            ``bn2sn://`` in front or without.
        parts: what is taught; other parts of the copy are not filled.
        eps: of BN. Default: that of the student's norms.

    Raises:
        CheckpointError: the file cannot be read, has no BN, or does not
            fill the parts that are taught.
    """
    file = _opened(source)
    found = without_wrappers(file.state)
    if not bn_layers(found):
        raise CheckpointError(
            f'{source} has no batch norm (weight, bias, running_mean, '
            'running_var of one layer): a teacher is a network with BN'
        )
    model = copy.deepcopy(student)
    state = _fitted(found, model, source)
    prefixes = [f'{n}.' if n else '' for n in taught_modules(model, parts)]
    norms = [
        name
        for name, module in find_norms(model).items()
        if name.startswith(tuple(prefixes))
        and f'{name}.running_mean' in state
        and _is_other(module)
    ]
    if not norms:
        raise CheckpointError(
            f'{source} has BN for none of the norm layers that are taught '
            'and are not BN themselves: nothing is to be transplanted'
        )
    norm_cfg = dict(type='BN') if eps is None else dict(type='BN', eps=eps)
    model = swap_norms(model, norm_cfg, include=norms)
    _check_filled(model, state, prefixes, source)
    model.load_state_dict(state, strict=False)
    layers = dict(model.named_modules())
    return Teacher(
        model.requires_grad_(False).eval(),
        norms,
        is_folded([layers[n] for n in norms]),
        file.meta,
    )


@torch.no_grad()
def begin(student: nn.Module, teacher: Teacher, parts: Sequence[str]) -> None:
    """Give a student its teacher's weights: where a transplant begins.

    Affine parameters and running statistics are BN's, ratios equal. A layer
    that is frozen computes what BN did, if it has that statistic.

    Args:
        student: changed in place.
        teacher: of this student; unfolded, if its file was folded.
        parts: what is taught; other parts are left alone.
    """
    student.train()  # which freezes stages, in some backbones
    for name, module in taught_modules(student, parts).items():
        taught = teacher.model.get_submodule(name).state_dict()
        own = module.state_dict()
        # tensor by tensor: a layer with ratios would refuse BN's state
        for key, value in taught.items():
            if key in own and own[key].shape == value.shape:
                own[key].copy_(value)
    layers = dict(student.named_modules())
    for name in teacher.norms:
        _set_ratios(layers[name])


def _opened(source: str):
    text = source if source.startswith((BN, SN)) else f'{BN}{source}'
    parsed = parse(text)
    if parsed.scheme == SN:
        raise CheckpointError(
            f'{source} is a network with SN: name a file of a network with '
            'BN as the teacher'
        )
    return open_files(parsed.names, of_run=True)[0]


def _is_other(module: nn.Module) -> bool:
    """Whether a norm is not BN itself."""
    return isinstance(module, RowNorm) or not hasattr(module, 'running_var')


def _fitted(
    state: Mapping[str, Tensor], model: nn.Module, source: str
) -> dict[str, Tensor]:
    """A file's tensors under the names of a model.

    A backbone's own file fits a detector, and a detector's its backbone;
    ``bn1`` is whatever the model calls its first norm.
    """
    own = model.state_dict()
    places = {}
    for name in find_norms(model):
        match = _ANY_NAME.fullmatch(name)
        if match:
            places.setdefault((match[1], match[3]), name)

    def renamed(key: str) -> str:
        layer, _, leaf = key.rpartition('.')
        match = _NORM_NAME.fullmatch(layer)
        if key in own or match is None:
            return key
        return f'{places.get((match[1], match[3]), layer)}.{leaf}'

    front = 'backbone.'
    candidates = [
        {renamed(k): v for k, v in state.items()},
        {renamed(f'{front}{k}'): v for k, v in state.items()},
        {
            renamed(k[len(front) :]): v
            for k, v in state.items()
            if k.startswith(front)
        },
    ]
    hits = [sum(k in own for k in c) for c in candidates]
    if not max(hits):
        raise CheckpointError(
            f'{source}: no tensor of the file has a place in the model: the '
            f'file holds {join_names(state, 4)}, the model '
            f'{join_names(own, 4)}'
        )
    return candidates[hits.index(max(hits))]


def _check_filled(
    model: nn.Module,
    state: Mapping[str, Tensor],
    prefixes: Iterable[str],
    source: str,
) -> None:
    own = {
        k: v
        for k, v in model.state_dict().items()
        if k.startswith(tuple(prefixes))
    }
    missing = [k for k in own if k not in state and not k.endswith(_OPTIONAL)]
    if missing:
        raise CheckpointError(
            f'{source} lacks {join_names(missing, 3)}: the teacher has to be '
            'a trained network of the same design; teach those parts alone '
            'that the file has (--parts), or name another file (--teacher)'
        )
    wrong = [
        k for k, v in own.items() if k in state and state[k].shape != v.shape
    ]
    if wrong:
        key = wrong[0]
        raise CheckpointError(
            f'{source}: {key} has shape {tuple(state[key].shape)} in the '
            f'file and {tuple(own[key].shape)} in the model'
        )


@torch.no_grad()
def _set_ratios(norm: nn.Module) -> None:
    """Equal ones; in a frozen layer BN alone, as it will never learn."""
    if not isinstance(norm, RowNorm) or not norm.ratios():
        return
    ratios = norm.ratios()
    frozen = not any(p.requires_grad for p in norm.parameters())
    for ratio in ratios.values():
        ratio.fill_(1 / len(norm.statistics))
        if frozen and 'bn' in norm.statistics:
            ratio.zero_()[..., norm.statistics.index('bn')] = 1
    norm.set_ratios_(ratios)
