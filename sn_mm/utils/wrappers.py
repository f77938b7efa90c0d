# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Models inside of wrappers."""

from __future__ import annotations

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that was built from a config.

    Looks through DistributedDataParallel and the other wrappers that mmengine
    knows, and through models that augment test images, however nested.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
