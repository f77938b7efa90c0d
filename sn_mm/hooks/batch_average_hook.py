# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Batch average during training: before evaluations and checkpoints."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.amp import autocast
from torch import nn

from sn_mm.anatomy.norms import running_names
from sn_mm.recalibrate.batch_average import find_averaged, update_batch_average
from sn_mm.recalibrate.fresh_loader import batches_for, fresh_loader
from sn_mm.utils import check_count, unwrapped


@HOOKS.register_module()
class BatchAverageHook(Hook):
    """Recompute BN's test statistics from training batches.

    Calls :func:`sn_mm.update_batch_average` every so often, and at the end
    of training, on batches of the training data, which it reads through a
    loader of its own.

    Priority ``LOW``: after EMAHook and the logger, before CheckpointHook and
    evaluation. With an EMAHook the statistics are those of the averaged
    weights, which evaluation and checkpoints use.

    Args:
        interval: number of epochs or iterations from one average to the
            next. Default: the train loop's ``val_interval``, so that every
            evaluation sees new statistics.
        num_samples: images to average over, in all processes together,
            rounded up to batches; at most the whole data set is read.
        by_epoch: unit of ``interval``. Default: epochs, in iteration-based
            loops iterations.
        include_bn, second_moment: see :func:`sn_mm.update_batch_average`.

    Raises:
        ValueError, TypeError: for arguments out of range, and, before
            training starts, for a model or a loader that it cannot be done
            with.
    """

    priority = 'LOW'

    def __init__(
        self,
        interval: int | None = None,
        num_samples: int = 8192,
        by_epoch: bool | None = None,
        include_bn: bool = False,
        second_moment: bool = False,
    ) -> None:
        check_count('num_samples', num_samples)
        if interval is not None:
            check_count('interval', interval)
        self.interval = interval
        self.num_samples = num_samples
        self.by_epoch = by_epoch
        self.include_bn = include_bn
        self.second_moment = second_moment

    def before_train(self, runner: Runner) -> None:
        """Find out what cannot work before hours are spent on training."""
        iterations = isinstance(runner.train_loop, IterBasedTrainLoop)
        if self.by_epoch is None:
            self.by_epoch = not iterations
        elif self.by_epoch and iterations:
            raise ValueError(
                'BatchAverageHook(by_epoch=True) in an iteration-based loop, '
                'which has no epochs; leave by_epoch out'
            )
        find_averaged(unwrapped(runner.model), self.include_bn)
        fresh_loader(runner.train_dataloader)

    def after_train_epoch(self, runner: Runner) -> None:
        """Average, if it is time."""
        if not self.by_epoch:
            return
        interval = self._interval(runner)
        if self.every_n_epochs(runner, interval) or self.is_last_train_epoch(
            runner
        ):
            self._update(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Average, if it is time."""
        if self.by_epoch:
            return
        interval = self._interval(runner)
        if self.every_n_train_iters(
            runner, interval
        ) or self.is_last_train_iter(runner):
            self._update(runner)

    def _interval(self, runner: Runner) -> int:
        return self.interval or runner.train_loop.val_interval

    def _update(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        ema = _ema_hook(runner)
        loader = runner.train_dataloader
        try:
            done = update_batch_average(
                model if ema is None else ema.ema_model.module,
                loader,
                batches_for(loader, self.num_samples),
                self.include_bn,
                self.second_moment,
                context=forward_context(runner),
            )
        except FloatingPointError as error:
            # a run that diverged ends by its own rules
            runner.logger.error(f'BatchAverageHook: {error}')
            return
        if ema is not None and not ema.ema_model.update_buffers:
            # EMAHook evaluates averaged parameters with this model's buffers
            _copy_statistics(ema.ema_model.module, model, done.layers)
        runner.logger.info(done.summary())


def _ema_hook(runner: Runner) -> EMAHook | None:
    return next((h for h in runner.hooks if isinstance(h, EMAHook)), None)


def forward_context(runner: Runner):
    """Makes what training runs its forward in."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, AmpOptimWrapper):
        return functools.partial(
            autocast, dtype=getattr(wrapper, 'cast_dtype', None)
        )
    return nullcontext


def _copy_statistics(
    source: nn.Module, target: nn.Module, names: list[str]
) -> None:
    for name in names:
        layers = source.get_submodule(name), target.get_submodule(name)
        read = attrgetter(*running_names(layers[0]))
        for old, new in zip(*map(read, layers)):
            new.copy_(old)
