# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The model of a config, without a Runner around it."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from .configs import register_toolbox


def build_model(cfg: Config) -> nn.Module:
    """Build a config's model, its toolbox's modules registered first.

    Args:
        cfg: has ``model`` and, unless mmengine's own modules are enough,
            ``default_scope``.

    Returns:
        The model with random weights: ``init_cfg`` was not carried out.

    Raises:
        LaunchError: the toolbox is not installed.
    """
    scope = register_toolbox(cfg)
    with MODELS.switch_scope_and_registry(scope) as models:
        return models.build(cfg.model)
