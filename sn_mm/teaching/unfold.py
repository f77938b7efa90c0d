# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Real statistics for BN that was folded into its affine parameters.

Caffe-style files have means of 0 and variances of 1: what BN does is all in
its affine parameters, on features that were never normalized. A norm that
normalizes has no use for such parameters. The statistics of the features, as
measured on pictures, turn them into those of a BN that normalizes and gives
the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sn_mm.recalibrate.averages import MomentAverage, merge_averages

from .batches import prepared
from .outputs import run_teacher
from .rois import Regions


@torch.no_grad()
def unfold(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Any],
    parts: Sequence[str],
) -> None:
    """Measure the statistics of BN layers, and keep what they compute.

    Args:
        model: with BN layers, in evaluation mode; changed in place.
        names: of the layers.
        batches: of pictures, as in :func:`.transplant`.
        parts: of the model that are run.
    """
    layers = dict(model.named_modules())
    averages = {n: MomentAverage(layers[n].num_features) for n in names}
    handles = [
        layers[n].register_forward_pre_hook(_observer(averages[n]))
        for n in names
    ]
    try:
        for batch in batches:
            run_teacher(model, prepared(model, batch), parts, Regions())
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        count, mean, var = merge_averages(
            [averages[name].flat()], second_moment=True
        )
        if count:
            _give(layers[name], mean, var)


def _observer(average: MomentAverage):
    def observe(module: nn.Module, args: tuple) -> None:
        x = args[0].detach().double()
        if x.numel():
            axes = [0, *range(2, x.dim())]
            var, mean = torch.var_mean(x, axes, correction=0)
            average.update(mean.cpu(), var.cpu())

    return observe


def _give(norm: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Statistics, and the affine parameters that undo their change."""
    mean = mean.to(norm.running_mean.device)
    var = var.to(norm.running_var.device)
    before = (norm.running_var.double() + norm.eps).sqrt()
    slope = norm.weight.double() / before
    shift = norm.bias.double() + slope * (mean - norm.running_mean.double())
    norm.weight.copy_(slope * (var + norm.eps).sqrt())
    norm.bias.copy_(shift)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
