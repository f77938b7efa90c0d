# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What will not come out as meant, told before training starts."""

from __future__ import annotations

import warnings

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from sn_mm.anatomy.deployment import warn_of_deployment
from sn_mm.anatomy.untrained import moved_by, untrained_for_good
from sn_mm.layers import RowNorm
from sn_mm.utils import unwrapped


class StartWatch(Hook):
    """Warn before training of what it would not show.

    Of layers whose ratios are untrained and cannot train, of mean teachers
    that do not get the student's running statistics, and of modules that
    take every norm for a batch norm when they are deployed. Every Runner has
    it (:mod:`sn_mm.patches.runner_hooks`).
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Look at the model with its weights loaded."""
        model = unwrapped(runner.model)
        teachers = [h for h in runner.hooks if _is_mean_teacher(h)]
        moved = moved_by(runner.optim_wrapper, model)
        names = untrained_for_good(model, moved)
        if teachers:
            names = [n for n in names if not n.startswith('teacher.')]
        if names:
            warnings.warn(stuck_text(names), stacklevel=2)
        for hook in teachers:
            if hook.skip_buffers and keeps_running_statistics(model):
                warnings.warn(TEACHER, stacklevel=2)
        warn_of_deployment(model)


TEACHER = (
    'MeanTeacherHook(skip_buffer=True) averages parameters alone: the '
    "teacher's SN layers keep the running statistics that they start with "
    '(0 and 1), while its ratios learn to use them. Set skip_buffer=False'
)


def stuck_text(names: list[str]) -> str:
    """The sentence about layers that cannot learn their ratios."""
    return (
        f'{len(names)} SN layers have the equal ratios of a new layer and '
        'cannot learn others, since they are frozen (requires_grad=False in '
        'norm_cfg, frozen_stages), not in the optimizer, at a learning rate '
        'of 0 (lr_mult) or hard: '
        + ', '.join(names)
        + '. Set requires_grad=True and frozen_stages=-1 (hard_ratios=False), '
        'no lr_mult of 0, or start from weights that have ratios (sn:// or '
        'bn2sn:// in init_cfg)'
    )


def _is_mean_teacher(hook: Hook) -> bool:
    named = any(c.__name__ == 'MeanTeacherHook' for c in type(hook).__mro__)
    return named and not isinstance(hook, EMAHook)


def keeps_running_statistics(model: nn.Module) -> bool:
    """Whether a layer of ours in the model has running statistics."""
    return any(
        isinstance(m, RowNorm) and m.track_running_stats
        for m in model.modules()
    )
