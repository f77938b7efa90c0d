# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What Population Normalization needs while it is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from sn_mm.functional.population import CURVATURES
from sn_mm.recalibrate.batch_average import update_batch_average
from sn_mm.recalibrate.fresh_loader import batches_for
from sn_mm.recalibrate.gamma_decay import (
    gamma_decay,
    measured_zeta,
    population_layers,
)
from sn_mm.utils import check_count, unwrapped

from .batch_average_hook import BatchAverageHook, forward_context

_KEY = 'gamma_decay'


@HOOKS.register_module()
class PopulationHook(BatchAverageHook):
    """Keep the population moments of PN layers up to date, and decay gamma.

    Sets the moments by batch average every ``interval`` iterations, before
    the first one if they are those of a new layer, and after the last one.
    Other layers with running statistics get averages, too. With
    ``gamma_decay`` the loss gets the term sum zeta gamma^2, whose
    coefficients are measured in the same forwards and are kept in the
    checkpoint. The model must sum its losses in mmengine's
    ``parse_losses``, as all of the toolboxes' do.

    Args:
        interval: number of iterations from one average to the next.
        num_samples: images to average over, in all processes together.
        gamma_decay: add the term: True, or a dict with ``activation``
            ('relu', 'softplus' or 'logistic') and ``batch_size`` (M, by
            default N S); see
            :func:`sn_mm.functional.population.gamma_decay_coefficient`.
        second_moment: see :func:`sn_mm.update_batch_average`.

    Raises:
        ValueError, TypeError: for arguments out of range; before training,
            for a model without PN or a loader that cannot be read twice.

    Warns:
        UserWarning: after the first iteration, if the model did not ask for
            the term.
    """

    def __init__(
        self,
        interval: int = 100,
        num_samples: int = 64,
        gamma_decay: bool | Mapping[str, Any] = False,
        second_moment: bool = False,
    ) -> None:
        super().__init__(
            interval, num_samples, by_epoch=False, second_moment=second_moment
        )
        self.decay = _checked(gamma_decay)
        self.zeta: dict[str, Tensor] = {}
        self._asked = False

    def before_train(self, runner: Runner) -> None:
        """Check the model, and measure what nobody has measured yet."""
        model = unwrapped(runner.model)
        layers = population_layers(model)
        if not layers:
            raise ValueError(
                'PopulationHook needs a model with PN layers, and there is '
                "none: write norm_cfg=dict(type='PN'), or leave the hook out"
            )
        super().before_train(runner)
        unknown = self.decay is not None and not self.zeta
        if unknown or any(m.is_new() for m in layers.values()):
            self._update(runner)
        if self.decay is not None:
            self._wrap_losses(model)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Average, if it is time."""
        if self.decay is not None and not self._asked:
            self._asked = True
            warnings.warn(
                f'{type(unwrapped(runner.model)).__name__} does not sum its '
                'losses in parse_losses: gamma decay was left out. Add '
                'sn_mm.gamma_decay(model, hook.zeta) to its loss',
                stacklevel=2,
            )
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_train(self, runner: Runner) -> None:
        """Leave the model's losses as they were."""
        vars(unwrapped(runner.model)).pop('parse_losses', None)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the coefficients."""
        if self.decay is not None:
            checkpoint[_KEY] = {n: t.cpu() for n, t in self.zeta.items()}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on with the coefficients of a training that is resumed."""
        if runner._resume:
            self.zeta = dict(checkpoint.get(_KEY, {}))

    def _update(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        loader = runner.train_dataloader
        measured = nullcontext({})
        if self.decay is not None:
            measured = measured_zeta(model, **self.decay)
        try:
            with measured as zeta:
                done = update_batch_average(
                    model,
                    loader,
                    batches_for(loader, self.num_samples),
                    second_moment=self.second_moment,
                    progress=False,
                    context=forward_context(runner),
                )
        except FloatingPointError as error:
            # a run that diverged ends by its own rules
            runner.logger.error(f'PopulationHook: {error}')
            return
        self.zeta.update(zeta)
        runner.logger.debug(done.summary())

    def _wrap_losses(self, model: nn.Module) -> None:
        """Let the model's losses have the term, until training ends."""
        original = model.parse_losses

        def parse_losses(losses: dict) -> Any:
            self._asked = True
            term = gamma_decay(model, self._on(model))
            return original({**losses, 'loss_gamma_decay': term})

        model.parse_losses = parse_losses

    def _on(self, model: nn.Module) -> dict[str, Tensor]:
        """The coefficients where the layers are; moved once."""
        for name, layer in population_layers(model).items():
            if name in self.zeta:
                self.zeta[name] = self.zeta[name].to(layer.running_mean)
        return self.zeta


def _checked(decay: bool | Mapping[str, Any]) -> dict[str, Any] | None:
    if decay is False or decay is None:
        return None
    options = {} if decay is True else dict(decay)
    unknown = set(options) - {'activation', 'batch_size'}
    if unknown:
        raise TypeError(
            f'gamma_decay takes activation and batch_size, got {unknown}'
        )
    activation = options.get('activation', 'relu')
    if not (callable(activation) or activation in CURVATURES):
        raise ValueError(
            f'gamma_decay: unknown activation {activation!r}; choose from '
            f'{", ".join(map(repr, CURVATURES))}'
        )
    if options.get('batch_size') is not None:
        check_count('batch_size', options['batch_size'])
    return options
