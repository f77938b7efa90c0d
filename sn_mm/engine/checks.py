# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether the files that a run will read are there.

Checked before anything is built: a missing data set would otherwise end a run
after minutes, in a traceback out of a data loader.
"""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Sequence

from mmengine.config import Config

from .errors import LaunchError

_DEMO_DATA = 'data/demo'
_MAKE_DEMO_DATA = f'python tools/make_demo_data.py {_DEMO_DATA}'


def check_checkpoint(path: str | None) -> None:
    """Check that a checkpoint is there, unless it is not a local file.

    Args:
        path: a file, or an address with a scheme (``https://...``), which is
            left to mmengine; None passes.

    Raises:
        LaunchError: if the file is missing.
    """
    if path is None or '://' in path or osp.isfile(osp.expanduser(path)):
        return
    raise LaunchError(
        f'checkpoint {path} not found; name a .pth file, such as the newest '
        'in the work folder of a training run'
    )


def check_data(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the local data sets of some data loaders are there.

    Args:
        cfg: the config.
        dataloaders: keys of the config, such as 'train_dataloader'; those
            that it lacks are passed over.

    Raises:
        LaunchError: if a folder or an annotation file is missing.
    """
    for key in dataloaders:
        dataset = (cfg.get(key) or {}).get('dataset') or {}
        for path in _local_paths(dataset):
            if osp.exists(path):
                continue
            if osp.normpath(path).startswith(osp.normpath(_DEMO_DATA)):
                fix = f'make it: {_MAKE_DEMO_DATA}'
            else:
                fix = 'put the data there, or set data_root in the config'
            raise LaunchError(f'data of {key} not found: {path}; {fix}')


def _local_paths(dataset: dict) -> Iterator[str]:
    """Root, annotation file and folders of a data set, wrapped or not."""
    wrapped = dataset.get('datasets') or [dataset.get('dataset')]
    for inner in wrapped:
        if inner:
            yield from _local_paths(inner)
    root = dataset.get('data_root')
    if not root or dataset.get('backend_args') or '://' in root:
        return
    yield root
    parts = [dataset.get('ann_file')]
    parts += (dataset.get('data_prefix') or {}).values()
    for part in parts:
        if isinstance(part, str) and part and '://' not in part:
            yield osp.join(root, part)
