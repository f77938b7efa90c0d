# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The files that a config starts from, as far as they are here already."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from sn_mm.anatomy import find_norms
from sn_mm.checkpoints.fill_bn import bn_state
from sn_mm.checkpoints.leaves import without_wrappers
from sn_mm.checkpoints.load import open_source
from sn_mm.checkpoints.reader import read_checkpoint
from sn_mm.checkpoints.report import Report
from sn_mm.checkpoints.sources import SCHEMES, parse
from sn_mm.utils.errors import CheckpointError

from .advice import Start


def state_here(
    model: nn.Module, start: Start
) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """The part of a model that a file is for, and the file's state for it.

    Args:
        model: built from a config.
        start: weights that the config names.

    Returns:
        None where the file is not here, is no checkpoint, or is for no part
        of the model: whoever loads it says so.
    """
    path = local(start.checkpoint)
    if path is None:
        return None
    try:
        state = without_wrappers(read_checkpoint(path, of_run=True).state)
        part = model.get_submodule(start.part)
    except (CheckpointError, AttributeError):
        return None
    front = f'{start.part}.'
    if start.part and any(key.startswith(front) for key in state):
        state = {
            key[len(front) :]: value
            for key, value in state.items()
            if key.startswith(front)
        }
    return part, state


def local(checkpoint: str) -> Path | None:
    """The file of that name, or of that address if it was fetched before."""
    path = Path(checkpoint).expanduser()
    if '://' in checkpoint:
        name = Path(urlparse(checkpoint).path).name
        path = Path(torch.hub.get_dir(), 'checkpoints', name)
    return path if path.is_file() else None


def filled_norms(model: nn.Module, start: Start) -> set[str] | None:
    """Names of the norm layers that a start fills; None if it cannot be told.

    A file of a detector with BN has none for an FPN without norms, and a
    transplanted backbone none for the heads.

    Args:
        model, start: see :func:`state_here`.
    """
    front = f'{start.part}.' if start.part else ''
    if start.checkpoint.startswith(SCHEMES):
        names = _filled_from_bn(model, start)
    else:
        names = _filled_by_name(model, start)
    return None if names is None else {f'{front}{name}' for name in names}


def _filled_by_name(model: nn.Module, start: Start) -> set[str] | None:
    found = state_here(model, start)
    if found is None:
        return None
    part, state = found
    return {
        name
        for name in find_norms(part)
        if any(key.startswith(f'{name}.') for key in state)
    }


def _filled_from_bn(model: nn.Module, start: Start) -> set[str] | None:
    """Of a file of BN, which tells its layers by more than names."""
    try:
        source = parse(start.checkpoint)
        if not source.is_bn or local(source.names[0]) is None:
            return None
        report = Report(start.checkpoint, '')
        part = model.get_submodule(start.part)
        bn_state(part, open_source(source), source.options, None, report)
    except (CheckpointError, AttributeError):
        return None
    return set(report.starts)
