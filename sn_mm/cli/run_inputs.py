# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether the weights that a run will read are there."""

from __future__ import annotations

import os.path as osp

from mmengine.config import Config

from sn_mm.analysis.advice import starts_of

from .launch_error import LaunchError

# from the root of the checkout, as in the configs
_PRETRAIN = osp.join('configs', 'pretrain')


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


def check_starts(cfg: Config) -> None:
    """Check that the weights in the model's config are there.

    Those of ``pretrained`` and ``init_cfg``, which training loads late. Passes
    what has a scheme of the toolboxes' or an address.

    Raises:
        LaunchError: if a file is missing.
    """
    if cfg.get('load_from') or cfg.get('resume'):
        return
    for start in starts_of(cfg):
        name = start.checkpoint
        if '://' in name or osp.isfile(osp.expanduser(name)):
            continue
        made = osp.splitext(osp.basename(name))[0]
        config = osp.join(_PRETRAIN, f'{made}.py')
        how = (
            f'train it with {config} and put it there'
            if osp.isfile(config)
            else 'put the file there'
        )
        raise LaunchError(
            f'the model starts from {name}, which does not exist: {how}, or '
            "set the part's init_cfg to released weights (sn://FILE, "
            'docs/checkpoints.md) or to bn2sn://torchvision://resnet50'
        )
