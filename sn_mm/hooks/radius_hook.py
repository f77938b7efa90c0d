# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The radius of sparse SN, which grows while it is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.optim import Optimizer

from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.layers.sparse import SparseRatios

# Their hooks leave a buffer called radius alone.
_PACKAGES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'sn_mm')
_HOW = (
    "add dict(type='RadiusHook') to custom_hooks (configs/_base_/ssn.py has "
    'the settings of the authors), or move the buffer `radius` from 0 to 1 '
    'in a hook of your own'
)


@HOOKS.register_module()
class RadiusHook(Hook):
    """Let the radius of SSN layers grow from 0 to 1, as the authors do.

    "SSN: Learning Sparse Switchable Normalization via SparsestMax", CVPR
    2019. At radius 0 ratios are sparsemax's; from 0.816 on (with three
    statistics) every layer uses one of them alone. The radius is linear in
    the iterations and set before each forward; it is 1 after the last one.
    It follows from the iteration alone, so that resumed runs go on where
    they were.

    The authors also clip the gradient of all ratios together, after it was
    averaged over the processes. The other half of their settings, a tenth of
    the learning rate and no weight decay, belongs in ``paramwise_cfg``.

    Args:
        begin: iteration that the radius begins to grow at.
        end: iteration that it is 1 from; the end of training by default.
        max_norm: of the ratios' gradients; None does not clip them.

    Raises:
        ValueError: for an end that is not after the begin, or a max_norm
            that is not positive; before training, for a model without SSN.
    """

    def __init__(
        self,
        begin: int = 0,
        end: int | None = None,
        max_norm: float | None = 1.0,
    ) -> None:
        if begin < 0 or (end is not None and end <= begin):
            raise ValueError(
                f'the radius must grow from one iteration to a later one, '
                f'got begin={begin} and end={end}'
            )
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f'max_norm must be above 0, got {max_norm}')
        self.begin = begin
        self.end = end
        self.max_norm = max_norm
        self._layers: list[nn.Module] = []
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and clip their gradients from now on."""
        self._layers = sparse_layers(runner.model)
        if not self._layers:
            raise ValueError(
                'RadiusHook needs a model with SSN layers, and there is '
                "none: write norm_cfg=dict(type='SSN'), or leave the hook out"
            )
        self._warn_of_the_end(runner)
        self._release()
        if self.max_norm is not None:
            for optimizer in _optimizers(runner.optim_wrapper):
                handle = optimizer.register_step_pre_hook(self._clip)
                self._handles.append(handle)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Set the radius of this iteration."""
        self._set(runner, runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Set the last one, before the last checkpoint is written."""
        if runner.iter + 1 >= runner.max_iters:
            self._set(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizer as it was."""
        self._release()

    def _set(self, runner: Runner, iteration: int) -> None:
        for layer in self._layers:
            layer.radius.fill_(self._radius(runner, iteration))

    def _radius(self, runner: Runner, iteration: int) -> float:
        end = runner.max_iters if self.end is None else self.end
        share = (iteration - self.begin) / max(end - self.begin, 1)
        return min(max(share, 0.0), 1.0)

    def _warn_of_the_end(self, runner: Runner) -> None:
        """Where training is over before every layer has to choose."""
        last = self._radius(runner, runner.max_iters)
        most = max(len(layer.statistics) for layer in self._layers)
        needed = math.sqrt((most - 1) / most)
        if last < needed and is_main_process():
            warnings.warn(
                f'RadiusHook(begin={self.begin}, end={self.end}) lets the '
                f'radius grow to {last:.3g} in the {runner.max_iters} '
                f'iterations of this training, and only from {needed:.3g} on '
                'does every SSN layer use one statistic alone: leave begin '
                'and end out, or set an end within the training',
                stacklevel=2,
            )

    def _clip(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        weights = [
            getattr(layer, name)
            for layer in self._layers
            for name in RATIO_PARAMETERS
        ]
        weights = [w for w in weights if w.grad is not None]
        # Fused optimizers take gradients that are still scaled (AMP).
        scale = getattr(optimizer, 'grad_scale', None)
        if weights:
            torch.nn.utils.clip_grad_norm_(
                weights, self.max_norm * (1.0 if scale is None else scale)
            )

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


class RadiusWatch(Hook):
    """Warn, once, where nothing moves the radius of SSN layers.

    Every Runner has it (:mod:`sn_mm.patches.runner_hooks`). Where no hook
    could move the radius it warns before training; where a hook of the
    user's own might, it waits for the end of the first epoch, or of a
    shorter training.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._layers: list[nn.Module] = []
        self._start: Sequence[float] = ()
        self._left = 0

    def before_train(self, runner: Runner) -> None:
        """Look for layers that have not chosen yet, and for hooks."""
        if any(type(hook) is RadiusHook for hook in runner.hooks):
            return  # maybe from a later iteration on, of which it warns
        # of the model that the optimizer trains, once for all
        self._layers = [m for m in sparse_layers(runner.model) if is_open(m)]
        self._start = [float(m.radius) for m in self._layers]
        self._left = len(runner.train_dataloader)
        if self._layers and not any(
            map(may_move_radius, map(type, runner.hooks))
        ):
            self._warn('nothing will move it in this training')

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Look after as many iterations as an epoch has, without epochs."""
        if self._layers and isinstance(runner.train_loop, IterBasedTrainLoop):
            self._left -= 1
            if self._left == 0:
                self._check('it has not moved in the first epoch')

    def after_train_epoch(self, runner: Runner) -> None:
        """Look whether the radius has moved, after hooks that move it here."""
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._check('it has not moved in the first epoch')

    def after_train(self, runner: Runner) -> None:
        """The same after a training that is shorter than an epoch."""
        self._check('it has not moved in this training')

    def _check(self, what: str) -> None:
        if self._layers:
            if [float(m.radius) for m in self._layers] == self._start:
                self._warn(what)
            self._layers = []

    def _warn(self, what: str) -> None:
        if is_main_process():
            warnings.warn(
                f'the radius of {len(self._layers)} SSN layers is '
                f'{self._start[0]:g} and {what}: their ratios never become '
                f'sparse; {_HOW}',
                stacklevel=2,
            )
        self._layers = []


def sparse_layers(model: nn.Module) -> list[nn.Module]:
    """The SSN layers of a model, wrapped or not."""
    return [m for m in model.modules() if isinstance(m, SparseRatios)]


def is_open(layer: nn.Module) -> bool:
    """Whether some ratio may still become a choice."""
    if len(layer.statistics) == 1 or float(layer.radius) >= 1:
        return False
    flags = torch.cat([layer.mean_fixed, layer.var_fixed])
    return bool((flags < 1).any())


def may_move_radius(kind: type) -> bool:
    """Whether a hook of this class could: ours, or one of a user's own."""
    if issubclass(kind, RadiusHook):
        return True
    return kind.__module__.partition('.')[0] not in _PACKAGES


def _optimizers(wrapper: Any) -> Iterator[Optimizer]:
    if isinstance(wrapper, Optimizer):
        yield wrapper
    elif isinstance(getattr(wrapper, 'optim_wrappers', None), dict):
        for inner in wrapper.optim_wrappers.values():
            yield from _optimizers(inner)
    else:
        yield wrapper.optimizer
