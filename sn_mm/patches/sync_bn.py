# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Tell the user of ``sync_bn='torch'`` that SN layers are not converted.

``sync_bn='torch'`` or ``'mmcv'`` in a config turns every BN of a distributed
run into SyncBN; RTMDet does so without being asked. SN layers are no batch
norms and rightly stay as they are, but silently: their BN statistics are then
each process's own, which is not what such a user wants.

Why functions are wrapped: neither toolbox offers a hook between the building
of a model and its conversion, and a layer cannot see afterwards that it was
passed over. The wrappers say their line and call the original, arguments
untouched; nothing else changes.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Callable
from weakref import WeakSet

from mmengine.logging import print_log
from mmengine.model import utils as mmengine_model_utils
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sn_mm.layers import RowNorm

_NAME = 'convert_sync_batchnorm'
# Conversion recurses through its own public name, and RTMDet's comes before
# the Runner's: a layer is spoken of once.
_told: WeakSet[nn.Module] = WeakSet()


def watch_sync_bn() -> None:
    """Wrap torch's and mmengine's ``convert_sync_batchnorm``, once.

    mmengine's Runner and strategies imported the function by name, so it is
    replaced in each loaded module that holds it.
    """
    on_class = nn.SyncBatchNorm.convert_sync_batchnorm.__func__
    if not _is_watched(on_class):
        nn.SyncBatchNorm.convert_sync_batchnorm = classmethod(
            _watched(on_class, position=1)
        )
    function = getattr(mmengine_model_utils, _NAME)
    if not _is_watched(function):
        watched = _watched(function, position=0)
        for module in list(sys.modules.values()):
            if getattr(module, '__dict__', {}).get(_NAME) is function:
                setattr(module, _NAME, watched)


def tell_about_sync_sn(model: nn.Module) -> int:
    """Log, once for each layer, that SN layers need SyncSN to synchronize.

    Args:
        model: a model whose batch norms are about to become SyncBN.

    Returns:
        The number of layers spoken of: those whose BN statistics are each
        process's own and that were not in an earlier message.
    """
    layers = [
        (name, m)
        for name, m in model.named_modules()
        if _is_local(m) and m not in _told
    ]
    if layers:
        _told.update(m for _, m in layers)
        kind = layers[0][1].norm_type
        print_log(
            f'sync_bn converts batch norms only: {len(layers)} {kind} '
            f"layer(s) of {type(model).__name__} ('{layers[0][0]}', ...) are "
            'left as they are, with BN statistics of each process alone'
            + _advice(kind),
            logger='current',
            level=logging.WARNING,
        )
    return len(layers)


def _advice(kind: str) -> str:
    """How to synchronize layers of this type, if it can be done."""
    if f'Sync{kind}' not in MODELS.module_dict:
        return '.'
    return (
        f". To synchronize them, set norm_cfg = dict(type='Sync{kind}') in "
        f"the config, or call sn_mm.convert_norm(model, 'Sync{kind}'); "
        'checkpoints of both are interchangeable.'
    )


def _is_local(module: nn.Module) -> bool:
    """Whether BN statistics are taken, over this process's batch alone."""
    return (
        isinstance(module, RowNorm)
        and module.takes_batch
        and not module.is_synchronized
        # which is converted, and heard
        and not any(isinstance(m, _BatchNorm) for m in module.children())
    )


def _watched(convert: Callable, position: int) -> Callable:
    """``convert``, speaking first; the model is argument ``position``."""

    @functools.wraps(convert)
    def watched(*args, **kwargs):
        model = args[position] if len(args) > position else kwargs['module']
        tell_about_sync_sn(model)
        return convert(*args, **kwargs)

    watched._sn_mm_watched = True
    return watched


def _is_watched(convert: Callable) -> bool:
    return getattr(convert, '_sn_mm_watched', False)
