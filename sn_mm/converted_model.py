# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Surgery as a config says it: ``type='ConvertNorm'`` and its kin."""

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


@MODELS.register_module(name='NormalizeWeights')
def build_with_normalized_weights(
    of: str,
    method: str,
    norm_cfg: dict | str | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    components: str | Sequence[str] | None = None,
    linear: bool = False,
    **model: Any,
) -> nn.Module:
    """Build a model and normalize its weights: ``type='NormalizeWeights'``.

    ``model=dict(type='NormalizeWeights', of='FasterRCNN',
    method='weight_standardization', ...)`` with all else as for
    ``type='FasterRCNN'``: see :func:`build_converted`. ``init_cfg`` and
    ``init_weights`` fill the weights as in the model without.

    Args:
        of: type of the model.
        method, include, exclude, components, linear: see
            :func:`sn_mm.normalize_weights`.
        norm_cfg: convert all norms to it first, as ``ConvertNorm`` does.
        model: arguments of the model.

    Returns:
        The model, an instance of ``of``.

    Raises:
        KeyError, TypeError, ValueError: see :func:`sn_mm.convert_norm` and
            :func:`sn_mm.normalize_weights`.
    """
    from sn_mm.surgery.convert_norm import swap_norms
    from sn_mm.surgery.weight_norms import (
        keep_initialization,
        normalize_weights,
    )

    built = MODELS.build(dict(model, type=of))
    if norm_cfg is not None:
        built = swap_norms(built, norm_cfg)
    built = normalize_weights(
        built, method, include, exclude, components, linear
    )
    keep_initialization(built)
    return built
