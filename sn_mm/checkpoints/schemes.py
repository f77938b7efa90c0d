# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``sn://`` and ``bn2sn://`` wherever a config takes a checkpoint.

A scheme is not told which model it loads for, so the layout decides the
names: backbones come without a prefix, as the toolboxes' own; detectors and
segmentors come whole. In ``init_cfg`` the model is known, and
:class:`PretrainedSN` checks it as :func:`.load_pretrained` does.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .bn import bn_to_sn
from .convert import convert, name_of, style_of
from .load import load_pretrained
from .report import Report, log
from .sources import BN, SN, about, open_files, parse, recognized


@CheckpointLoader.register_scheme(prefixes=SN, force=True)
def load_sn(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a public SN checkpoint under OpenMMLab's names.

    Args:
        filename: ``sn://FILE``; ``sn://ENCODER,DECODER`` joins the two files
            of a segmentor; ``?to=`` model (with ``backbone.`` in front),
            backbone, mmpretrain or torchvision chooses other names than the
            layout's own.
        map_location: device of the tensors.

    Returns:
        {'state_dict': ..., 'meta': {}}.

    Raises:
        CheckpointError: see :mod:`.reader`, :mod:`.layouts`,
            :mod:`.convert`.
    """
    source = parse(filename)
    to = source.options.get('to', 'mmdet')
    state: OrderedDict[str, Tensor] = OrderedDict()
    metadata: dict[str, Any] = {}
    for file, layout in recognized(source):
        report = Report(str(file.path), str(layout))
        with about(file):
            name = name_of(style_of(to, layout, len(source.names) > 1))
            part = convert(file.state, layout, name, report)
        log(report)
        state.update(part)
        metadata.update(part._metadata)
    return _result(state, metadata, map_location)


@CheckpointLoader.register_scheme(prefixes=BN, force=True)
def load_bn(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load a BN checkpoint under the names and with the ratios of SN.

    Args:
        filename: ``bn2sn://ANY``, ANY being a file, a URL, or torchvision://,
            open-mmlab:// or mmcls:// and a model; ``?ratios=bn`` puts the
            ratios on BN instead of their initial, equal values.
        map_location: device of the tensors.

    Returns:
        {'state_dict': ..., 'meta': {}}.
    """
    source = parse(filename)
    file = open_files(source.names)[0]
    report = Report(str(file.path), 'network with BN')
    if source.names[0].startswith('mmcls://'):  # as mmengine's own scheme
        file.state = {
            k[len('backbone.') :]: v
            for k, v in file.state.items()
            if k.startswith('backbone.')
        }
    with about(file):
        state = bn_to_sn(file.state, report, **source.options)
    log(report)
    return _result(state, {}, map_location)


def _result(
    state: OrderedDict[str, Tensor],
    metadata: dict[str, Any],
    map_location: Any,
) -> dict[str, Any]:
    if isinstance(map_location, (str, torch.device)):
        state = OrderedDict((k, v.to(map_location)) for k, v in state.items())
    state._metadata = metadata
    return dict(state_dict=state, meta={})


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class PretrainedSN(PretrainedInit):
    """mmengine's ``Pretrained``, strict for ``sn://`` and ``bn2sn://``.

    mmengine's own loads with ``strict=False`` and does not compare model and
    file; for all other checkpoints it still does the work.
    """

    def __call__(self, module: torch.nn.Module) -> None:
        """Fill ``module``, or the part of the file called ``prefix``."""
        if not self.checkpoint.startswith((SN, BN)):
            super().__call__(module)
            return
        print_log(f'load model from: {self.checkpoint}', logger='current')
        load_pretrained(module, self.checkpoint, prefix=self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
