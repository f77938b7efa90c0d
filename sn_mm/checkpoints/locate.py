# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where a checkpoint given by name lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from sn_mm.utils.errors import CheckpointError

from .ibn_net import REPOSITORY, file_name

FOLDER_VARIABLE = 'SN_MM_CHECKPOINTS'
REPOSITORIES = (
    ('ImageNet models', 'switchablenorms/Switchable-Normalization'),
    ('detectors', 'switchablenorms/SwitchNorm_Detection'),
    ('segmentation models', 'switchablenorms/SwitchNorm_Segmentation'),
    ('SSN models', 'switchablenorms/Sparse_SwitchNorm'),
    ('IBN-Nets', REPOSITORY),
)


def folder() -> Path:
    """The local folder of downloaded checkpoints.

    The environment variable SN_MM_CHECKPOINTS, else ``checkpoints/`` in the
    working directory.
    """
    return Path(os.environ.get(FOLDER_VARIABLE) or 'checkpoints').expanduser()


def locate(name: str) -> Path:
    """The file that ``name`` means.

    A path is taken as it is. A name alone that is no file in the working
    directory is looked up in :func:`folder`.

    Raises:
        CheckpointError: there is no such file; for a name alone the message
            says where its link is listed and where to put it.
    """
    path = Path(name).expanduser()
    if not path.exists():
        path = Path(file_name(name) or name).expanduser()
    if path.is_dir():
        raise CheckpointError(f'{path} is a folder, not a checkpoint file')
    if path.exists():
        return path
    if path.name != str(path):
        raise CheckpointError(f'{path} does not exist')
    found = folder() / path.name
    if found.is_file():
        return found
    tables = '; '.join(
        f'{what}: github.com/{where}' for what, where in REPOSITORIES
    )
    raise CheckpointError(
        f'{name} is neither in the working directory nor in '
        f"{folder().absolute()}. If it is one of the authors' files, its "
        f'link is in the model zoo table of their README ({tables}): '
        f'download it and put it at {found.absolute()} (another folder: set '
        f'{FOLDER_VARIABLE})'
    )
