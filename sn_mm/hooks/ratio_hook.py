# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the layers choose, logged and kept while they are trained."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from sn_mm.analysis.history import (
    FILE_NAME,
    HistoryWriter,
    Record,
    read_history,
)
from sn_mm.anatomy.layer_info import infos_of_model
from sn_mm.anatomy.ratios import MOMENTS, LayerRatios, ratios_of_model
from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.patches.ratio_rate import RATE
from sn_mm.utils import check_count, unwrapped


@HOOKS.register_module()
class RatioHook(Hook):
    """Log the mean and variance ratios of every SN layer.

    Scalars ``ratios/LAYER/mean_in`` and so on go to the visualizer's
    backends (TensorBoard, local, ...); all ratios to a history,
    ``ratios.jsonl`` in the work folder, for ``tools/plot_ratios.py``. A
    record costs one transfer of a few numbers per layer, in the first
    process alone. The end of training says how far the ratios have moved
    since its start, and warns where that is next to nothing. There is a
    record of the start and one of the end as well. A resumed run goes on in
    its history; a new one in the same folder renames the old file to
    ``ratios.1.jsonl``.

    Args:
        interval: iterations, or epochs, from one record to the next.
        by_epoch: unit of ``interval``.
        scalars: write to the visualizer.
        history: keep the history.

    Raises:
        ValueError, TypeError: for an interval out of range, and before
            training for a model without SN layers, or a resumed one that the
            history is not of.
    """

    def __init__(
        self,
        interval: int = 100,
        by_epoch: bool = False,
        scalars: bool = True,
        history: bool = True,
    ) -> None:
        check_count('interval', interval)
        self.interval = interval
        self.by_epoch = by_epoch
        self.scalars = scalars
        self.history = history
        self._writer: HistoryWriter | None = None
        self._last: int | None = None
        self._start: list[LayerRatios] = []

    def before_train(self, runner: Runner) -> None:
        """Open the history, and record where training starts."""
        if not is_main_process():
            return
        model = unwrapped(runner.model)
        ratios = ratios_of_model(model)  # before any work: is there an SN?
        self._last = None
        if self.history:
            layers, note = infos_of_model(model)
            if note:
                print_log(note, logger='current', level=logging.WARNING)
            path = Path(runner.work_dir) / FILE_NAME
            self._writer = HistoryWriter(path, layers, runner.iter)
        self._record(runner, runner.iter, ratios)
        self._start = ratios
        if self.history and runner.iter:  # a resumed run
            self._start = read_history(path).records[0].ratios

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Record, if it is time."""
        if not self.by_epoch and self.every_n_train_iters(
            runner, self.interval
        ):
            self._record(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Record, if it is time."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._record(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Record what the layers chose in the end, and how far that is."""
        self._record(runner, runner.iter)
        if not is_main_process():
            return
        moved = how_far(unwrapped(runner.model), self._start)
        if moved:
            print_log(moved_text(moved), logger='current')
        if moved and mean_of(moved) < _NOTHING:
            warnings.warn(not_learned_text(_factor(runner)), stacklevel=2)

    def _record(
        self,
        runner: Runner,
        iteration: int,
        ratios: list[LayerRatios] | None = None,
    ) -> None:
        if not is_main_process() or iteration == self._last:
            return
        self._last = iteration
        if ratios is None:
            ratios = ratios_of_model(unwrapped(runner.model))
        if self._writer is not None:
            self._writer.append(Record(iteration, runner.epoch, ratios))
        if self.scalars:
            runner.visualizer.add_scalars(_scalars(ratios), step=iteration)


def how_far(model: nn.Module, start: list[LayerRatios]) -> dict[str, float]:
    """The largest change of a ratio since the start, by layer that trains."""
    before = {layer.name: layer for layer in start}
    modules = dict(model.named_modules())
    moved = {}
    for layer in ratios_of_model(model):
        trains = any(
            p.requires_grad and name in RATIO_PARAMETERS
            for name, p in modules[layer.name].named_parameters()
        )
        if trains and layer.name in before:
            moved[layer.name] = max(
                float(
                    np.abs(
                        getattr(layer, kind)
                        - getattr(before[layer.name], kind)
                    ).max()
                )
                for kind in MOMENTS
            )
    return moved


def mean_of(moved: Mapping[str, float]) -> float:
    """Mean over layers."""
    return sum(moved.values()) / len(moved)


def moved_text(moved: Mapping[str, float]) -> str:
    """How far the ratios are from their start, in a sentence."""
    name = max(moved, key=moved.get)
    return (
        f'ratios of {len(moved)} layers have moved by {mean_of(moved):.3f} '
        f'since the start of training, at most by {moved[name]:.3f} ({name})'
    )


# Layers whose ratios moved by less, on average, were a fixed mix.
_NOTHING = 0.01


def not_learned_text(factor: float | None) -> str:
    """That ratios were not learned, and what to do about it.

    Args:
        factor: of their learning rate, as the config has it; None if it has
            none.
    """
    text = (
        'the ratios have hardly moved since the start of training: they were '
        'not learned, and SN was a fixed mix of its statistics. '
    )
    if factor is None:
        return (
            f'{text}For a short finetuning set optim_wrapper=dict('
            'paramwise_cfg=dict(ratio_lr_mult=20.)), which multiplies their '
            'learning rate alone (docs/ratios.md)'
        )
    return (
        f'{text}ratio_lr_mult={factor:g} of this training is too little for '
        'its length: train longer, or multiply by more (docs/ratios.md)'
    )


def _factor(runner: Runner) -> float | None:
    """``ratio_lr_mult`` of the training's config."""
    wrapper = runner.cfg.get('optim_wrapper') or {}
    return (wrapper.get('paramwise_cfg') or {}).get(RATE)


def _scalars(ratios: list[LayerRatios]) -> dict[str, float]:
    return {
        f'ratios/{layer.name}/{kind}_{name}': float(share)
        for layer in ratios
        for kind in MOMENTS
        for name, share in zip(layer.statistics, layer.average(kind))
    }
