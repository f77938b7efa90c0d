# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Surgery as a config says it: ``type='ConvertNorm'``, ``'ShareLSTM'``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import nn


@MODELS.register_module(name='ConvertNorm')
def build_converted(
    of: str,
    norm_cfg: dict | str,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    components: str | Sequence[str] | None = None,
    **model: Any,
) -> nn.Module:
    """Build a model and turn its norms into others: ``type='ConvertNorm'``.

    ``model=dict(type='ConvertNorm', of='RetinaNet', norm_cfg=dict(type='SN'),
    ...)`` with all else as for ``type='RetinaNet'``. Reaches norms that no
    ``norm_cfg`` does. Whatever builds ``cfg.model`` builds the same network:
    training, testing, ``init_detector``, ``init_model``, the inferencers. The
    layers keep the names that they have with the old norms, so checkpoints
    fit models that were converted in Python, too.

    Args:
        of: type of the model.
        norm_cfg, include, exclude, components: see
            :func:`sn_mm.convert_norm`.
        model: arguments of the model.

    Returns:
        The model, an instance of ``of``.

    Raises:
        KeyError, TypeError, ValueError: see :func:`sn_mm.convert_norm`.
    """
    # mmcv, which surgery needs, is loaded only where a config asks for it
    from sn_mm.surgery.convert_norm import swap_norms

    built = MODELS.build(dict(model, type=of))
    return swap_norms(built, norm_cfg, include, exclude, components)


@MODELS.register_module(name='ShareLSTM')
def build_sharing(
    of: str,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    components: str | Sequence[str] | None = None,
    **model: Any,
) -> nn.Module:
    """Build a model whose BHN layers share LSTMs: ``type='ShareLSTM'``.

    ``model=dict(type='ShareLSTM', of='MaskRCNN', ...)`` with all else as for
    ``type='MaskRCNN'``, and ``norm_cfg=dict(type='BHN')`` in neck and heads.

    Args:
        of: type of the model.
        include, exclude, components: see :func:`sn_mm.share_lstm`.
        model: arguments of the model.

    Returns:
        The model, an instance of ``of``.

    Raises:
        ValueError: see :func:`sn_mm.share_lstm`.
    """
    from sn_mm.surgery.share_lstm import share_lstm

    built = MODELS.build(dict(model, type=of))
    return share_lstm(built, components, include, exclude)
