# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Distributed runs where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.device import get_device


@contextmanager
def cpu_processes(cfg: Config) -> Iterator[None]:
    """Let a Runner that is built inside run on CPUs if it has to.

    mmengine's launchers choose a CUDA device in any case, its configs ask
    for NCCL, and its wrapper wants a device: a distributed run without GPU
    would end in three errors, one after the other. With a GPU, or without a
    launcher, nothing changes.

    Args:
        cfg: changed in place: backend 'gloo', and a wrapper without devices.
    """
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        yield
        return
    _without_gpu(cfg)
    set_device = torch.cuda.set_device
    torch.cuda.set_device = lambda device: None
    try:
        yield
    finally:
        torch.cuda.set_device = set_device


def _without_gpu(cfg: Config) -> None:
    backend = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend', 'nccl')
    wrapper = dict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
        device_ids=None,
    )
    wrapper.update(cfg.get('model_wrapper_cfg') or {})
    cfg.model_wrapper_cfg = wrapper
    if backend == 'nccl':
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
