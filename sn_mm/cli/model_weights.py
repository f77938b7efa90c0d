# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of a command line that changes weights and nothing else."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable

from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from sn_mm.anatomy.norms import running_names
from sn_mm.checkpoints.foreign import check_norms
from sn_mm.utils import join_names, unwrapped

from .launch_error import LaunchError

# what torch raises of files that are no checkpoints, or cut off
_UNREADABLE = (OSError, EOFError, RuntimeError, pickle.UnpicklingError)
# absent in files of the authors' code, and in those of old versions
_OPTIONAL = 'num_batches_tracked'


def load_weights(model: nn.Module, checkpoint: str) -> dict:
    """Fill a model, wholly, from a checkpoint.

    Args:
        model: built from the checkpoint's config, wrapped or not.
        checkpoint: a file or an address with a scheme.

    Returns:
        What the checkpoint holds; at least 'state_dict'.

    Raises:
        LaunchError: if the checkpoint cannot be read, or lacks weights of
            the model.
    """
    model = unwrapped(model)
    try:
        content = mmengine_checkpoint._load_checkpoint(checkpoint, 'cpu')
    except _UNREADABLE as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise LaunchError(f'{checkpoint} cannot be read: {why}') from error
    if getattr(content, 'fill', None) is not None:
        content.fill(model)  # checks, and raises a CheckpointError
        return dict(state_dict=model.state_dict(), meta={})
    if not isinstance(content, dict):
        raise LaunchError(
            f'{checkpoint} holds a {type(content).__name__}, no weights'
        )
    if 'state_dict' not in content:
        content = dict(state_dict=content, meta={})
    try:
        check_norms(model, content['state_dict'], refuse=True)
        result = model.load_state_dict(content['state_dict'], strict=False)
    except RuntimeError as error:
        raise LaunchError(
            f'{checkpoint} does not fit the model of the config: '
            f'{_details(error)}'
        ) from error
    missing = [k for k in result.missing_keys if not k.endswith(_OPTIONAL)]
    if missing:
        raise LaunchError(
            f'{checkpoint} lacks {join_names(missing, 3)}: it was trained '
            'with another config than this one'
        )
    if result.unexpected_keys:
        print_log(
            f'{checkpoint} also has {join_names(result.unexpected_keys, 3)}, '
            "which the config's model does not have",
            logger='current',
            level=logging.WARNING,
        )
    return content


def put_weights(content: dict, model: nn.Module, layers: Iterable[str]) -> int:
    """Write the running statistics of some layers into a checkpoint.

    Args:
        content: changed in place.
        model: has the new statistics, wrapped or not.
        layers: names.

    Returns:
        The size of the weights in bytes.
    """
    state, own = content['state_dict'], unwrapped(model).state_dict()
    for layer in layers:
        module = unwrapped(model).get_submodule(layer)
        for name in running_names(module):
            key = f'{layer}.{name}'
            # shaped as in the file: the authors' have (1, C, 1)
            old = state.get(key, own[key])
            state[key] = own[key].cpu().to(old.dtype).reshape(old.shape)
    return sum(t.numel() * t.element_size() for t in state.values())


def _details(error: RuntimeError) -> str:
    """The first complaint of torch's list."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)]
