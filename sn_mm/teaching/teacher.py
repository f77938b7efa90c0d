# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A student's teacher: the same network with BN, from a file of BN weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sn_mm.anatomy import find_norms
from sn_mm.anatomy.norms import has_ratios, is_plain_norm, sets_ratios
from sn_mm.anatomy.starts import frozen_in_training
from sn_mm.checkpoints.bn import is_folded, without_bn
from sn_mm.checkpoints.fill_bn import (
    BNFile,
    bn_state,
    hold_frozen,
    read_bn_file,
)
from sn_mm.checkpoints.leaves import (
    leaves_of_file,
    leaves_of_model,
    without_wrappers,
)
from sn_mm.checkpoints.networks import find_network
from sn_mm.checkpoints.report import Report
from sn_mm.checkpoints.sources import (
    BN,
    SCHEMES,
    named_in_errors,
    one_path,
    parse,
)
from sn_mm.layers import RowNorm
from sn_mm.surgery.convert_norm import swap_norms
from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .outputs import taught_modules

# in old files BN does not count its batches
_OPTIONAL = 'num_batches_tracked'
_FRONT = 'backbone.'


@dataclass
class Teacher:
    """A network with BN, in evaluation mode, that nothing trains.

    Attributes:
        model: named as the student.
        norms: names of its BN layers where the student has another norm.
        folded: those of them whose statistics the file has folded into its
            weights: :func:`.unfold.unfold` them before :func:`begin`.
        said: what there is to say of the file.
        dataset_meta: of the file: classes and colours, if it has them.
    """

    model: nn.Module
    norms: list[str]
    folded: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    dataset_meta: dict[str, Any] = field(default_factory=dict)


def make_teacher(
    student: nn.Module,
    source: str,
    parts: Sequence[str],
    eps: float | None = None,
) -> Teacher:
    """Copy a student with BN for its norms, and fill it from a file.

    Norms that are no BN in the file stay what they are.

    Args:
        student: built from its config; not changed.
        source: what may stand behind ``bn2sn://``, with that in front or
            without: a file of any layout, a URL, a name of the toolboxes'
            schemes.
        parts: what is taught; other parts of the copy are not filled.
        eps: of BN. Default: that of the student's norms.

    Raises:
        CheckpointError: the file cannot be read, has no BN, or does not
            fill the parts that are taught.
    """
    parsed = parse(source if source.startswith(SCHEMES) else f'{BN}{source}')
    if not parsed.is_bn:
        raise CheckpointError(
            f'{source} is a network with SN: name a file of a network with '
            'BN as the teacher'
        )
    file = read_bn_file(one_path(parsed))
    options = {k: v for k, v in parsed.options.items() if k == 'part'}
    prefixes = tuple(
        f'{name}.' if name else '' for name in taught_modules(student, parts)
    )
    names = [
        name
        for name, module in find_norms(student).items()
        if name.startswith(prefixes)
        and is_plain_norm(module)
        and _is_other(module)
    ]
    front = _FRONT if prefixes == (_FRONT,) else ''
    with named_in_errors(file):
        are_bn = _bn_in(
            file, student.get_submodule(front.rstrip('.')), options
        )
        norms = [n for n in names if n[len(front) :] in are_bn]
        if not norms:
            raise CheckpointError(
                'it has BN for none of the norm layers that are taught and '
                'are not BN themselves: nothing is to be transplanted'
            )
        norm_cfg = dict(type='BN') if eps is None else dict(type='BN', eps=eps)
        model = swap_norms(copy.deepcopy(student), norm_cfg, include=norms)
        said = _fill(model, front, file, options, prefixes)
    model.requires_grad_(False)
    model.eval()  # which returns nothing in some backbones
    layers = dict(model.named_modules())
    return Teacher(
        model,
        norms,
        [n for n in norms if is_folded(layers[n].state_dict())],
        said,
        _dataset_meta(file.content),
    )


@torch.no_grad()
def begin(student: nn.Module, teacher: Teacher, parts: Sequence[str]) -> None:
    """Give a student its teacher's weights: where a transplant begins.

    Affine parameters and running statistics are BN's, ratios equal. A layer
    that is frozen computes what BN did, if it has that statistic, in
    training mode too.

    Args:
        student: changed in place.
        teacher: of this student; unfolded, if its file was folded.
        parts: what is taught; other parts are left alone.
    """
    for name, module in taught_modules(student, parts).items():
        taught = teacher.model.get_submodule(name).state_dict()
        own = module.state_dict()
        # tensor by tensor: a layer with ratios would refuse BN's state
        for key, value in taught.items():
            if key in own and own[key].shape == value.shape:
                own[key].copy_(value)
    layers, frozen = dict(student.named_modules()), frozen_in_training(student)
    for name in teacher.norms:
        layer = layers[name]
        # what DN and EN learn instead of ratios stays as it starts
        if sets_ratios(layer) or has_ratios(layer) and layer in frozen:
            _set_ratios(layer, layer in frozen)
    hold_frozen(student, set(teacher.norms))


def _bn_in(
    file: BNFile, model: nn.Module, options: Mapping[str, str]
) -> set[str]:
    """Names of the model's norms that are BN in the file."""
    own = leaves_of_model(model)
    modules = any('module' in name.split('.') for name in own)
    leaves = leaves_of_file(without_wrappers(file.tensors, modules))
    if not any(leaf.channels for leaf in leaves.values()):
        raise CheckpointError(without_bn(file.tensors))
    match, _ = find_network(own, leaves, file.content, options.get('part'))
    return {
        name
        for name, source in match.pairs.items()
        if leaves[source].channels is not None
    }


def _fill(
    model: nn.Module,
    front: str,
    file: BNFile,
    options: Mapping[str, str],
    prefixes: Sequence[str],
) -> list[str]:
    """Load the part that ``front`` names; what there is to say of it."""
    report = Report(str(file.path), 'network with BN')
    part = model.get_submodule(front.rstrip('.'))
    found = bn_state(part, file, options, None, report)
    state = {f'{front}{key}': value for key, value in found.items()}
    _check_filled(model, state, prefixes)
    model.load_state_dict(state, strict=False)
    return report.said


def _is_other(module: nn.Module) -> bool:
    """Whether a norm is not BN itself."""
    return isinstance(module, RowNorm) or not hasattr(module, 'running_var')


def _check_filled(
    model: nn.Module, state: Mapping[str, Tensor], prefixes: Iterable[str]
) -> None:
    own = model.state_dict()
    missing = [
        key
        for key in own
        if key.startswith(tuple(prefixes))
        and key not in state
        and not key.endswith(_OPTIONAL)
    ]
    if missing:
        raise CheckpointError(
            f'it does not fill {join_names(missing, 3)}: the teacher has to '
            'be a trained network of the same design; teach those parts '
            'alone that the file has (--parts), or name another file '
            '(--teacher)'
        )


@torch.no_grad()
def _set_ratios(norm: nn.Module, frozen: bool) -> None:
    """Equal ones; in a frozen layer BN alone, as it will never learn."""
    ratios = norm.ratios()
    for ratio in ratios.values():
        ratio.fill_(1 / len(norm.statistics))
        if frozen and 'bn' in norm.statistics:
            ratio.zero_()[..., norm.statistics.index('bn')] = 1
    norm.set_ratios_(ratios)


def _dataset_meta(content: Any) -> dict[str, Any]:
    """Classes and colours, which mmengine keeps beside a run's weights."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    found = meta.get('dataset_meta') if isinstance(meta, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    kept = {}
    for key in ('classes', 'palette'):
        try:
            kept[key] = json.loads(json.dumps(found[key]))
        except (KeyError, TypeError):  # not there, or no plain text
            continue
    return kept
