# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a network is taught with: the outputs of its parts, by name.

Stages of the backbone, levels of the neck, raw maps of the heads.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .rois import Regions, propose, recorded, replayed

PARTS = ('backbone', 'neck', 'heads')
ALL = 'all'
Outputs = dict[str, Tensor]


def check_parts(parts: str | Sequence[str]) -> tuple[str, ...]:
    """The parts that are taught, from the backbone on, without a gap.

    Args:
        parts: 'backbone', 'neck' and 'heads', one or several; 'all' is all.

    Raises:
        ValueError: another name, or a part whose input is not taught.
    """
    given = [parts] if isinstance(parts, str) else list(parts)
    if given == [ALL]:
        return PARTS
    unknown = [p for p in given if p not in PARTS]
    if unknown:
        raise ValueError(
            f'parts={unknown[0]!r}: choose from {", ".join(PARTS)}, or '
            f'{ALL!r} alone'
        )
    chosen = tuple(p for p in PARTS if p in given)
    if not chosen or chosen != PARTS[: len(chosen)]:
        raise ValueError(
            f'parts={given}: a part is taught on what the parts before it '
            "give, so choose 'backbone', 'backbone' and 'neck', or 'all'"
        )
    return chosen


def taught_modules(
    model: nn.Module, parts: Sequence[str]
) -> dict[str, nn.Module]:
    """The modules that ``parts`` stand for, by name; '' is the whole model.

    A model without a ``backbone`` is taught as a whole.
    """
    if not hasattr(model, 'backbone') or 'heads' in parts:
        return {'': model}
    names = [p for p in parts if getattr(model, p, None) is not None]
    return {name: getattr(model, name) for name in names}


def run_taught(
    model: nn.Module,
    batch: Any,
    parts: Sequence[str],
    regions: Regions | None = None,
    teaches: bool = False,
) -> Outputs:
    """Outputs of the parts of a model.

    Args:
        model: a detector, a segmentor, a classifier, or any module.
        batch: as :func:`.batches.prepared` gives it.
        parts: see :func:`check_parts`.
        regions: of the RoI head: filled by the teacher, followed by others.
        teaches: whether ``model`` is the teacher.

    Returns:
        Floating point tensors by name, in the order of the data.

    Raises:
        ValueError: a head that cannot be run on features alone.
    """
    inputs = batch['inputs'] if isinstance(batch, dict) else batch
    if not hasattr(model, 'backbone'):
        return _named('output', model(inputs))
    feats = model.backbone(inputs)
    outputs = _named('backbone', feats)
    if 'neck' in parts and getattr(model, 'neck', None) is not None:
        feats = model.neck(feats)
        outputs.update(_named('neck', feats))
    if 'heads' in parts:
        samples = batch.get('data_samples') if isinstance(batch, dict) else []
        outputs.update(_heads(model, feats, samples))
        if getattr(model, 'roi_head', None) is not None:
            found = Regions() if regions is None else regions
            outputs.update(_roi_head(model, feats, samples, found, teaches))
    return outputs


def _named(name: str, value: Any) -> Outputs:
    """The tensors in whatever a module returns: 'neck.0', 'neck.1', ..."""
    if isinstance(value, Tensor):
        return {name: value} if value.is_floating_point() else {}
    found: Outputs = {}
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        items = []
    for key, entry in items:
        found.update(_named(f'{name}.{key}', entry))
    return found


# -- heads that see whole pictures --
def _heads(model: nn.Module, feats: Any, samples: list) -> Outputs:
    outputs: Outputs = {}
    for name, head in model.named_children():
        is_head = name.endswith('head') and name != 'roi_head'
        if not is_head or next(head.parameters(), None) is None:
            continue
        if name == 'bbox_head' and hasattr(model, 'forward_transformer'):
            value = head(**model.forward_transformer(feats, samples))
            outputs.update(_named(name, value))
        elif isinstance(head, nn.ModuleList):
            outputs.update(_several(name, head, feats, samples))
        else:
            outputs.update(_named(name, _run_head(name, head, feats, samples)))
    return outputs


def _several(
    name: str, heads: nn.ModuleList, feats: Any, samples: list
) -> Outputs:
    """mmseg's auxiliary heads, or its decode heads in a cascade."""
    outputs: Outputs = {}
    before = None
    for index, head in enumerate(heads):
        if before is not None and 'prev_output' in _required(head):
            before = head(feats, before)
        else:
            before = _run_head(f'{name}.{index}', head, feats, samples)
        outputs.update(_named(f'{name}.{index}', before))
    return outputs


def _run_head(name: str, head: nn.Module, feats: Any, samples: list) -> Any:
    required = _required(head)
    if len(required) <= 1:
        return head(feats)
    if len(required) == 2 and 'data_samples' in required[1]:
        return head(feats, samples)
    raise ValueError(
        f'{name} ({type(head).__name__}) needs {", ".join(required[1:])} '
        'besides features, which nothing here knows to give: teach '
        "parts=('backbone', 'neck') alone"
    )


def _required(head: nn.Module) -> list[str]:
    """Arguments of ``forward`` without a default."""
    parameters = inspect.signature(head.forward).parameters.values()
    return [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]


# -- heads that see regions --
def _roi_head(
    model: nn.Module,
    feats: Any,
    samples: list,
    regions: Regions,
    teaches: bool,
) -> Outputs:
    if teaches:
        regions.rois.clear()
        regions.proposals = propose(model, feats, samples)
    follow = recorded if teaches else replayed
    with (
        follow(model.roi_head, regions),
        _captured(model.roi_head) as outputs,
    ):
        model.roi_head.forward(feats, regions.proposals, samples)
    return outputs


@contextmanager
def _captured(roi_head: nn.Module) -> Iterator[Outputs]:
    """What the parts of a RoI head give, which it may go on to process."""
    outputs: Outputs = {}
    calls: dict[str, int] = {}
    handles = []

    def capture(name: str):
        def hook(module: nn.Module, args: tuple, value: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            again = f' (call {calls[name]})' if calls[name] > 1 else ''
            outputs.update(_named(f'roi_head.{name}{again}', value))

        return hook

    for name, child in roi_head.named_children():
        if not name.endswith('head'):
            continue
        several = isinstance(child, nn.ModuleList)
        parts = enumerate(child) if several else [(None, child)]
        for index, part in parts:
            full = name if index is None else f'{name}.{index}'
            handles.append(part.register_forward_hook(capture(full)))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def detached(outputs: Outputs) -> Outputs:
    """For a teacher, whose outputs have no gradient."""
    return {name: value.detach() for name, value in outputs.items()}


@torch.no_grad()
def run_teacher(
    model: nn.Module, batch: Any, parts: Sequence[str], regions: Regions
) -> Outputs:
    """:func:`run_taught` of a teacher."""
    return run_taught(model, batch, parts, regions, teaches=True)
