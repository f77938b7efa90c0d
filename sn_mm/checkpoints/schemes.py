# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``sn://``, ``ibn://`` and ``bn2sn://`` wherever a config takes a checkpoint.

mmengine reads a checkpoint before it looks at the model. What these schemes
return therefore holds the state dict under the names that the layout suggests
(backbones without a prefix, as the toolboxes' own; detectors and segmentors
whole), for whoever takes it as a plain dict; and where mmengine goes on to
load it into a model (:mod:`sn_mm.patches.filled_models`), it fills the model
itself, checking as :func:`.load_pretrained` does.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any, Callable

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from .convert import convert, name_of, style_of
from .fill_bn import plain_state
from .load import Opened, fill_model, open_source
from .report import Report
from .sources import (
    BN,
    BN_TO_ANY,
    IBN,
    SN,
    Source,
    named_in_errors,
    parse,
)


class SchemeCheckpoint(dict):
    """{'state_dict': ..., 'meta': {}} that can also fill a model.

    Attributes:
        fill: function of a model, as :func:`.load_pretrained`; None where
            the user chose the names.
    """

    def __init__(
        self,
        state: OrderedDict[str, Tensor],
        map_location: Any,
        fill: Callable[[nn.Module], Report] | None = None,
    ) -> None:
        metadata = getattr(state, '_metadata', {})
        if isinstance(map_location, (str, torch.device)):
            state = OrderedDict(
                (k, v.to(map_location)) for k, v in state.items()
            )
        state._metadata = metadata
        super().__init__(state_dict=state, meta={})
        self.fill = fill


@CheckpointLoader.register_scheme(prefixes=(SN, IBN), force=True)
def load_sn(filename: str, map_location: Any = None) -> SchemeCheckpoint:
    """Load a public SN or IBN-Net checkpoint under OpenMMLab's names.

    Args:
        filename: ``sn://FILE``, or ``ibn://FILE`` of a released IBN-Net,
            whose published name alone will do; ``sn://ENCODER,DECODER``
            joins the two files of a segmentor; ``?to=`` model (with
            ``backbone.`` in front), backbone, mmpretrain or torchvision
            chooses other names than the layout's own.
        map_location: device of the tensors.

    Raises:
        CheckpointError: see :mod:`.reader`, :mod:`.layouts`,
            :mod:`.convert`.
    """
    source = parse(filename)
    opened = open_source(source)
    state = _joined(source, opened)
    if 'to' in source.options:
        return SchemeCheckpoint(state, map_location)
    return SchemeCheckpoint(
        state, map_location, functools.partial(_fill, source, opened)
    )


def _joined(source: Source, opened: Opened) -> OrderedDict[str, Tensor]:
    """The public files of a source, converted, in one state dict."""
    to = source.options.get('to', 'mmdet')
    state: OrderedDict[str, Tensor] = OrderedDict()
    metadata: dict[str, Any] = {}
    for file, layout in opened:
        name = name_of(style_of(to, layout, len(opened) > 1))
        with named_in_errors(file):
            part = convert(
                file.state, layout, name, Report(str(file.path), str(layout))
            )
        state.update(part)
        metadata.update(part._metadata)
    state._metadata = metadata
    return state


@CheckpointLoader.register_scheme(prefixes=(BN, BN_TO_ANY), force=True)
def load_bn(filename: str, map_location: Any = None) -> SchemeCheckpoint:
    """Load a BN checkpoint as a start of a network with another norm.

    A model that is filled with it gets what fits its own norms and names.
    As a plain dict it has the names and the ratios of SN.

    Args:
        filename: ``bn2sn://ANY``, ANY being a file, a URL, or torchvision://,
            open-mmlab:// or mmcls:// and a model; ``?ratios=bn``, or a share
            such as ``?ratios=0.5``, instead of equal ratios; ``?part=`` one
            of several networks in the file. ``bn2norm://`` means the same.
        map_location: device of the tensors.

    Raises:
        CheckpointError: see :mod:`.reader`, :mod:`.fill_bn`.
    """
    source = parse(filename)
    file = open_source(source)
    state = plain_state(
        file, source.options, Report(str(file.path), 'network with BN')
    )
    return SchemeCheckpoint(
        state, map_location, functools.partial(_fill, source, file)
    )


def _fill(source: Source, opened: Opened, model: nn.Module) -> Report:
    return fill_model(model, source, opened)
