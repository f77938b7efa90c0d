# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether the weights that a run will read are there."""

from __future__ import annotations

import os.path as osp
import zipfile

from mmengine.config import Config

from sn_mm.analysis.advice import starts_of
from sn_mm.checkpoints.ibn_net import url_of
from sn_mm.checkpoints.locate import locate
from sn_mm.checkpoints.sources import SCHEMES, parse
from sn_mm.patches.own_configs import configs_folder
from sn_mm.utils.errors import CheckpointError

from .launch_error import LaunchError


def check_checkpoint(path: str | None) -> None:
    """Check that a checkpoint is there, unless it is fetched from somewhere.

    Args:
        path: a file, maybe behind a scheme of ours (``sn://FILE``); an
            address, or another scheme, is left to mmengine; None passes.

    Raises:
        LaunchError: if the file is missing, or no file of torch's.
    """
    if path is None:
        return
    why = _why_missing(path)
    if why is None and '://' not in path and not _is_of_torch(path):
        raise LaunchError(
            f'checkpoint {path} cannot be read: it is no file of torch.save, '
            'or not the whole of one: name another .pth file, or copy it anew'
        )
    if why is not None:
        raise LaunchError(
            f'checkpoint {path} not found{why}; name a .pth file, such as the '
            'newest in the work folder of a training run'
        )


def check_starts(cfg: Config) -> None:
    """Check that the weights in the model's config are there.

    Those of ``pretrained`` and ``init_cfg``, which training loads late, also
    where it goes on from a checkpoint. Passes addresses and the toolboxes'
    schemes.

    Raises:
        LaunchError: if a file is missing.
    """
    for start in starts_of(dict(model=cfg.get('model'))):
        name = start.checkpoint
        why = _why_missing(name)
        if why is None:
            continue
        made = f'{osp.splitext(osp.basename(name))[0]}.py'
        how = 'put the file there'
        if (configs_folder() / 'pretrain' / made).is_file():
            how = f'train it with configs/pretrain/{made} and put it there'
        instead = (
            'None, since the run has load_from'
            if cfg.get('load_from') or cfg.get('resume')
            else 'released weights (sn://FILE, docs/checkpoints.md) or to '
            'bn2sn://torchvision://resnet50'
        )
        raise LaunchError(
            f'the model starts from {name}, which does not exist{why}: {how}, '
            f"or set the part's init_cfg to {instead}"
        )


def _why_missing(checkpoint: str) -> str | None:
    """None for what is there or comes from elsewhere; else more about it."""
    if checkpoint.startswith(SCHEMES):
        try:
            for name in parse(checkpoint).names:
                if '://' not in name and url_of(name) is None:
                    locate(name)
        except CheckpointError as error:
            return f' ({error})'
        return None
    there = '://' in checkpoint or osp.isfile(osp.expanduser(checkpoint))
    return None if there else ''


def _is_of_torch(path: str) -> bool:
    """By its first bytes, and its end where it is an archive."""
    path = osp.expanduser(path)
    with open(path, 'rb') as file:
        start = file.read(2)
    if start == b'PK':
        return zipfile.is_zipfile(path)
    return start[:1] == b'\x80'  # a pickle, as of torch before 1.6
