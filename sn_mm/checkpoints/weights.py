# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of any origin, for what looks at their weights alone."""

from __future__ import annotations

import os.path as osp

from mmengine.runner import CheckpointLoader
from torch import Tensor

from sn_mm.utils.errors import CheckpointError

from .files import convert_source

_PUBLIC = ('sn://', 'ibn://')


def read_weights(source: str) -> dict:
    """Read a checkpoint on the CPU.

    Args:
        source: a file of a run of mmengine, a state dict, or ``sn://FILE``
            for a file of the public code. Local files of a run may hold more
            than tensors: read only those that you trust, as for resuming.

    Returns:
        A dict with 'state_dict', named as in OpenMMLab's models, and what
        else the file holds.

    Raises:
        CheckpointError: if there is no such file, or no weights in it.
    """
    if source.startswith(_PUBLIC):
        return convert_source(source, 'model').content
    if '://' not in source and not osp.isfile(osp.expanduser(source)):
        raise CheckpointError(
            f'{source} not found; name a .pth file, such as the newest in '
            'the work folder of a training run'
        )
    try:
        content = CheckpointLoader.load_checkpoint(source, 'cpu')
    except Exception as error:  # torch raises whatever its parsers raise
        raise CheckpointError(
            f'{source} is no checkpoint that torch can read: '
            f'{str(error).splitlines()[0] if str(error) else error!r}'
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{source} holds a {type(content).__name__}, not weights'
        )
    if not isinstance(content.get('state_dict'), dict):
        content = dict(state_dict=content)
    if not any(isinstance(v, Tensor) for v in content['state_dict'].values()):
        raise CheckpointError(f'{source} holds no weights')
    return content
