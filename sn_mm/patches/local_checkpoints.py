# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Let mmengine read its own checkpoints where torch has become stricter.

From torch 2.6 on ``torch.load`` unpickles tensors and plain containers only
(``weights_only=True``), unless told otherwise. mmengine 0.10.7 does not tell
it otherwise, and its checkpoints hold more: HistoryBuffer, numpy scalars,
``getattr``. Resume, test, ``init_detector`` and ``init_model`` then end in an
UnpicklingError. They all read through mmengine's CheckpointLoader, whose
scheme for local files is replaced here, with upstream's own later fix.

A pickle can run code: as before torch 2.6, load local checkpoints that you
trust only. Other schemes keep their loaders: ``http(s)://`` and the model
zoos built on it pass ``weights_only=False`` inside torch.hub; ``s3://``,
``petrel://``, ``pavi://`` and ``open-mmlab://`` names of local files stay at
torch's default.
"""

from __future__ import annotations

import inspect
import os.path as osp
from typing import Any, Callable

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.utils import digit_version

_LOCAL = ''  # the prefix under which mmengine looks up plain file names


def register_local_loader() -> bool:
    """Make :func:`load_from_local` mmengine's reader of local files.

    Only where mmengine's own would fail: not before torch 2.6, not where
    mmengine has the fix (onedl-mmengine), and not where somebody registered
    another loader for local files.

    Returns:
        Whether the loader was replaced by this call.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return False
    current = CheckpointLoader._schemes.get(_LOCAL)
    if (
        current is not mmengine_checkpoint.load_from_local
        or not loads_weights_only(current)
    ):
        return False
    CheckpointLoader.register_scheme(_LOCAL, load_from_local, force=True)
    return True


def loads_weights_only(loader: Callable) -> bool:
    """Whether a loader leaves ``weights_only`` to torch's default.

    Read off its source: trying it out would write a file on every import.
    """
    try:
        source = inspect.getsource(loader)
    except OSError:  # byte code without source: no fixed mmengine is
        return True
    return 'torch.load(' in source and 'weights_only' not in source


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Load a local checkpoint, whatever objects it holds.

    The name is mmengine's: its log line is made of it.

    Args:
        filename: path; ``~`` is expanded.
        map_location: as for :func:`torch.load`.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    filename = osp.expanduser(filename)
    if not osp.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    return torch.load(filename, map_location=map_location, weights_only=False)
