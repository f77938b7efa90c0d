# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the norm layers of a model start from, and which of them will learn."""

from __future__ import annotations

from torch import nn

_START = 'start_of_weights'


def note_start(layer: nn.Module, text: str) -> None:
    """Write down where a layer's weights come from."""
    setattr(layer, _START, text)


def noted_start(layer: nn.Module) -> str | None:
    """What :func:`note_start` wrote; None where nothing did."""
    return getattr(layer, _START, None)


def frozen_in_training(model: nn.Module) -> set[nn.Module]:
    """Layers of which no parameter will train.

    Many backbones freeze their first stages only when they are put into
    training mode, so that is done here; modes and gradients are as before
    afterwards.
    """
    modes = {m: m.training for m in model.modules()}
    grads = {p: p.requires_grad for p in model.parameters()}
    try:
        model.train()
        frozen = {
            m
            for m in model.modules()
            if (own := list(m.parameters()))
            and not any(p.requires_grad for p in own)
        }
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, grad in grads.items():
            parameter.requires_grad = grad
    return frozen
