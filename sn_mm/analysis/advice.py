# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the paper advises against, looked for in a model and its config.

"Switchable Normalization for Learning-to-Normalize Deep Representation",
TPAMI 2019: Table XI (rows 4 and 5), Sec. 4.3.
"""

from __future__ import annotations

import os.path as osp
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from sn_mm.anatomy.components import component_of
from sn_mm.anatomy.trace import NormTrace
from sn_mm.utils import join_names

from .norm_table import NormRow

# How far apart batches of pretraining and finetuning may be. ADE20K gained
# from (8, 4) weights at 2 images per GPU, and lost from (8, 32) ones.
_COMPARABLE = 4
# BN ratios that the paper calls large where the batch is small.
_LARGE_BN = 0.3
_SMALL_BATCH = 2
# ... and that are more than the equal shares of a new layer.
_MOVED = 0.01
# In detection the paper finds BN's ratios rising.
_DETECTION = ('rpn_head', 'box_head', 'mask_head', 'shared_head')
# GPUs x images in the names of released weights: 8xb32, 8x2, (8,2). Not the
# sizes of pictures, 512x1024, nor three numbers, 4x2x1.
_BATCH = re.compile(
    r'(?<!\d)(?<!\dx)\(?(?:\d+xb|\d{1,2}(?:x|,\s*))(\d{1,3})(?!\d)(?!x\d)'
)
_TORCHVISION_BATCH = 32


class Start(NamedTuple):
    """Weights that training starts from.

    Attributes:
        checkpoint: as the config names it.
        component: that it fills; None for the whole model.
        images: per GPU, that it was trained with; None if unknown.
        part: name of the module that it fills; '' for the whole model.
    """

    checkpoint: str
    component: str | None
    images: int | None
    part: str = ''


def advise(
    rows: list[NormRow],
    seen: Mapping[str, NormTrace],
    images: int | None,
    starts: Sequence[Start],
    trained: bool,
    detects: bool = False,
) -> list[str]:
    """One line for everything that the paper advises against.

    Args:
        rows: the norm layers.
        seen: what each one was given in an example run.
        images: per GPU in training; None if unknown.
        starts: the weights that training starts from.
        trained: whether the ratios in ``rows`` are those of trained weights.
        detects: whether the model is a detector, see :func:`is_detector`.
    """
    told = trained and not detects
    return [
        *_single_positions(rows, seen),
        *_batches(rows, images, starts),
        *_bn_ratios(rows, images if told else None),
    ]


def is_detector(model: nn.Module) -> bool:
    """Whether a model is a detector, whatever of it has norms."""
    return any(
        'Detector' in cls.__name__ for cls in type(model).__mro__
    ) or any(
        component_of(name, model) in _DETECTION
        for name, _ in model.named_modules()
    )


def _single_positions(
    rows: list[NormRow], seen: Mapping[str, NormTrace]
) -> Iterator[str]:
    layers = [
        r.name
        for r in rows
        if r.ratios is not None
        and r.name in seen
        and seen[r.name].positions == 1
    ]
    if layers:
        yield (
            f'SN on maps of a single position: {join_names(layers, 4)}. IN '
            'and LN are unstable there (TPAMI, Table XI, 5); give these '
            "layers another norm, such as norm_cfg=dict(type='GN', "
            'num_groups=32), or none'
        )


def _batches(
    rows: list[NormRow], images: int | None, starts: Sequence[Start]
) -> Iterator[str]:
    for start in starts:
        parts = [r for r in rows if start.component in (None, r.component)]
        # running, synchronized and other statistics do not change so much
        if not any(r.batch for r in parts):
            continue
        before = start.images
        if images is None or before is None:
            continue
        if max(images, before) >= _COMPARABLE * min(images, before):
            yield (
                f'{start.checkpoint} was trained with {before} images per '
                f'GPU, this config has {images}: batches of pretraining and '
                'finetuning should be comparable (TPAMI, Table XI, 4); '
                'start from weights of a smaller batch, or use SyncSN'
            )


def _bn_ratios(rows: list[NormRow], images: int | None) -> Iterator[str]:
    if images is None or images > _SMALL_BATCH:
        return
    found = []
    for row in rows:
        if row.ratios is None or not row.batch:
            continue
        share = max(row.ratios.share(k, 'bn') for k in ('mean', 'var'))
        start = 1 / len(row.ratios.statistics)
        if share > max(_LARGE_BN, start + _MOVED):
            found.append((share, row.name))
    if found:
        worst = max(found)
        yield (
            f'BN ratios above {_LARGE_BN} at {images} image(s) per GPU: '
            f'{join_names([name for _, name in found], 4)} '
            f'(largest {worst[0]:.2f} in {worst[1]}). Batch statistics are '
            'noisy there (TPAMI, Sec. 4.3); start from weights of a small '
            'batch, use SyncSN, or bn_eval=True'
        )


def starts_of(config: Mapping[str, Any]) -> list[Start]:
    """Weights that training with a config starts from, if any.

    ``load_from`` takes the place of what fills the parts.
    """
    if config.get('load_from'):
        file = config['load_from']
        return [Start(file, None, pretraining_batch(file))]
    found = _init_checkpoints(config.get('model') or {}, '')
    return [
        Start(
            file,
            component_of(part) if part else None,
            pretraining_batch(file),
            part,
        )
        for file, part in dict.fromkeys(found)
    ]


def _init_checkpoints(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Checkpoints in a model's config, and the modules they fill."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ('checkpoint', 'pretrained') and isinstance(value, str):
                part = path.removesuffix('.init_cfg').lstrip('.')
                # of a whole model it is the backbone's, as mmseg means it
                whole = key == 'pretrained' and not path
                yield value, 'backbone' if whole else part
            else:
                yield from _init_checkpoints(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _init_checkpoints(value, path)


def pretraining_batch(checkpoint: str) -> int | None:
    """Images per GPU that weights were trained with, as their name says.

    Example:
        >>> pretraining_batch('checkpoints/resnet50_sn_8xb32_in1k.pth')
        32
        >>> pretraining_batch('sn://ResNet50v1_sn_(8,2).pth')
        2
    """
    if 'torchvision://' in checkpoint:
        return _TORCHVISION_BATCH
    found = _BATCH.search(osp.basename(checkpoint))
    return int(found.group(1)) if found else None
