# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switches of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.device import get_device

from .configs import type_name
from .launch_error import LaunchError
from .run_inputs import check_checkpoint


def enable_amp(cfg: Config) -> None:
    """Train in automatic mixed precision, with a dynamic loss scale.

    Raises:
        LaunchError: without a GPU, or if the config has an optimizer wrapper
            of its own.
    """
    wrapper = cfg.optim_wrapper
    # a name, maybe with its package in front, or in pure Python configs a
    # class; without any mmengine takes OptimWrapper
    kind = type_name(wrapper.get('type', 'OptimWrapper'))
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise LaunchError(
            '--amp needs optim_wrapper.type to be OptimWrapper, the config '
            f'has {kind}; leave --amp out'
        )
    if get_device() == 'cpu':
        raise LaunchError(
            '--amp needs a GPU, and none is to be seen; leave --amp out'
        )
    if kind == 'OptimWrapper':
        wrapper.type = 'AmpOptimWrapper'
        wrapper.loss_scale = 'dynamic'


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate to the batch size that the run has.

    Raises:
        LaunchError: if the config does not tell the batch size that its
            learning rate is for.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise LaunchError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size, the batch '
            'size that the learning rate is for; add auto_scale_lr=dict('
            'enable=False, base_batch_size=16) to the config'
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str) -> None:
    """Go on from where an earlier run was.

    Args:
        cfg: changed in place.
        resume: a checkpoint, or 'auto' for the latest in the work folder, if
            there is one.

    Raises:
        LaunchError: if the checkpoint is missing.
    """
    cfg.resume = True
    cfg.load_from = None
    if resume != 'auto':
        check_checkpoint(resume)
        cfg.load_from = resume


@contextmanager
def resuming(cfg: Config) -> Iterator[None]:
    """Say what to do where an optimizer's state is not of these parameters.

    Raises:
        LaunchError: in place of torch's error about parameter groups.
    """
    try:
        yield
    except ValueError as error:
        if not cfg.get('resume') or 'parameter group' not in str(error):
            raise
        raise LaunchError(
            'the run cannot go on: name its checkpoint in load_from, without '
            '--resume (--cfg-options load_from=CHECKPOINT), to start a new '
            'one from its weights. Other parameters are trained now than when '
            f'it was saved ({error}), as after a change of hard_ratios, '
            'statistics or frozen layers'
        ) from error
