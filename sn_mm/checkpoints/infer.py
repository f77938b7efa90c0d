# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which public layout an OpenMMLab state dict corresponds to.

For files that were trained here, and so carry no notes of a conversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from .detectron import params_of_detector
from .resnet import resnet_params
from .segmentation import decoder_params

Part = dict[str, Any]


def infer_parts(state: Mapping[str, Tensor]) -> list[Part]:
    """The public files that a state dict could be written as.

    Args:
        state: of a backbone, detector or segmentor of the released designs.

    Returns:
        As :mod:`.files` puts them into ``meta``: one part, or encoder and
        decoder.

    Raises:
        CheckpointError: the public layouts have no such network.
    """
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    if 'sn1.mean_weight' in shapes:
        return [_part('resnet', resnet_params(shapes, ''), 'backbone')]
    inner = {
        k[len('backbone.') :]: v
        for k, v in shapes.items()
        if k.startswith('backbone.')
    }
    if 'sn1.mean_weight' not in inner:
        raise CheckpointError(
            'no ResNet with SN in the norms called sn1, sn2, ... is in this '
            f'file, which the public layouts need: {join_names(shapes)}'
        )
    if 'rpn_head.rpn_conv.weight' in shapes:
        params = params_of_detector(shapes)
        return [_part('detectron', params, 'model', 'model')]
    parts = [_part('resnet', resnet_params(inner, ''), 'model')]
    if 'decode_head.convs.0.conv.weight' in shapes:
        params = decoder_params(_as_decoder(shapes))
        parts.append(_part('seg-decoder', params, 'model'))
    return parts


def _part(
    kind: str, params: dict[str, Any], style: str, wrapper: str | None = None
) -> Part:
    return dict(
        kind=kind,
        params=params,
        style=style,
        wrapper=wrapper,
        plain={},
        kept={},
    )


def _as_decoder(shapes: Mapping[str, tuple]) -> dict[str, tuple]:
    """The shapes by which the public decoder is recognised."""
    names = {
        'decode_head.convs.0.conv.weight': 'cbr.0.weight',
        'decode_head.convs.0.sn.mean_weight': 'cbr.1.mean_weight',
        'decode_head.conv_seg.weight': 'conv_last.weight',
        'auxiliary_head.convs.0.conv.weight': 'cbr_deepsup.0.weight',
    }
    return {names[k]: v for k, v in shapes.items() if k in names}
