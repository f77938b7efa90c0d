# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Gamma decay: the part of BN's regularization that PN lacks, as a loss.

"Towards Understanding Regularization in Batch Normalization", ICLR 2019. See
:mod:`sn_mm.functional.population` for what is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Union

import torch
from mmengine import dist
from torch import Tensor, nn

from sn_mm.functional.population import Curvature, gamma_decay_coefficient
from sn_mm.layers import PN
from sn_mm.utils import unwrapped

# one number for all layers, or (C,) for each layer by name
Zeta = Union[float, Mapping[str, Tensor]]


def population_layers(model: nn.Module) -> dict[str, PN]:
    """The PN layers of a model, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, PN)}


def gamma_decay(model: nn.Module, zeta: Zeta) -> Tensor:
    """The loss term sum zeta gamma^2 over PN's channels.

    Args:
        model: with PN layers.
        zeta: the coefficient, or those of each layer (C,) by its name; layers
            without a name there have none. :func:`measured_zeta` finds them.

    Returns:
        (), differentiable.

    Raises:
        ValueError: for a model without PN.

    Example:
        >>> import sn_mm
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), sn_mm.layers.PN(8))
        >>> round(gamma_decay(model, 0.01).item(), 6)
        0.08
    """
    layers = population_layers(unwrapped(model))
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no PN layer, whose gammas decay: set '
            "norm_cfg=dict(type='PN')"
        )
    total = next(iter(model.parameters())).new_zeros(())
    for name, layer in layers.items():
        own = zeta if isinstance(zeta, (int, float)) else zeta.get(name)
        if layer.weight is not None and own is not None:
            total = total + (own * layer.weight.square()).sum()
    return total


@contextmanager
def measured_zeta(
    model: nn.Module,
    activation: Curvature = 'relu',
    batch_size: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The coefficients of all PN layers, from the forwards inside.

    Args:
        model: with PN layers.
        activation, batch_size: see
            :func:`sn_mm.functional.population.gamma_decay_coefficient`.

    Yields:
        Averages over calls, (C,) by layer, empty until the end; in a
        distributed job over all processes, which must all get there.
    """
    found: dict[str, Tensor] = {}
    layers = population_layers(model)
    sums = {
        name: layer.running_mean.new_zeros(layer.num_features + 1)
        for name, layer in layers.items()
    }

    def recorder(name: str):
        def record(layer: PN, args: tuple, y: Tensor) -> None:
            if y.numel():
                own = gamma_decay_coefficient(
                    args[0], y, batch_size, activation
                )
                if own.isfinite().all():
                    sums[name][:-1] += own.to(sums[name].dtype)
                    sums[name][-1] += 1

        return record

    handles = [
        layer.register_forward_hook(recorder(name))
        for name, layer in layers.items()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    if not sums:
        return
    flat = torch.cat(list(sums.values()))
    dist.all_reduce(flat)
    for name, part in zip(
        sums, flat.split([t.numel() for t in sums.values()])
    ):
        if part[-1]:
            found[name] = part[:-1] / part[-1]
