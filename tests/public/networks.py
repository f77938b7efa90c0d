# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Synthetic checkpoint files of every public layout."""

from __future__ import annotations

import gzip
import json
from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from tests.paths import DATA
from tests.public import oracle

NOBN = partial(oracle.SwitchNorm, using_bn=False)

BUILDERS = {
    'imagenet_resnetv1sn50': oracle.ResNet,
    'imagenet_resnetv1sn50_nobn': partial(oracle.ResNet, norm=NOBN),
    'imagenet_resnetv1sn101': partial(oracle.ResNet, 101),
    'imagenet_resnetv1ssn50': partial(
        oracle.ResNet, norm=oracle.FixedSparseNorm, ceil_pool=True
    ),
    'detectron_backbone_fpn': partial(oracle.Converted, oracle.SwitchNorm),
    'detectron_faster_rcnn_r50_fpn_sn': partial(
        oracle.Detector, oracle.SwitchNorm
    ),
    'detectron_faster_rcnn_r50_fpn_sn_nobn': partial(oracle.Detector, NOBN),
    'detectron_mask_rcnn_r50_fpn_sn_nobn': partial(
        oracle.Detector, NOBN, mask=True
    ),
    'detectron_faster_rcnn_r50_c4_sn': partial(
        oracle.Detector, oracle.SwitchNorm, fpn=False
    ),
    'seg_encoder_resnet50dilated8_sn': partial(
        oracle.ResNet, fc=False, dilated=True
    ),
    'seg_decoder_c1_deepsup': partial(oracle.Decoder, oracle.SwitchNorm),
}


@cache
def public_layouts() -> dict:
    """Keys and shapes of the released files, by layout."""
    with gzip.open(DATA / 'public_layouts.json.gz', 'rt') as file:
        return json.load(file)


def original(layout: str, seed: int = 0) -> nn.Module:
    """The public network of a layout, with synthetic weights."""
    return oracle.fill(BUILDERS[layout](), seed)


def content(layout: str, state: dict) -> dict:
    """What the released file holds besides and around ``state``."""
    outer = (
        dict(public_layouts()[layout]['top_level'])
        if isinstance(public_layouts()[layout]['top_level'], dict)
        else None
    )
    keys = list(public_layouts()[layout]['shapes'])
    prefix = 'module.' if keys[0].startswith('module.') else ''
    state = {prefix + k: v for k, v in state.items()}
    state = {k: state[k] for k in keys}
    if outer is None:
        return state
    return {k: state if v == '<shapes>' else v for k, v in outer.items()}


def save(model: nn.Module, layout: str, path: Path) -> Path:
    """Write ``model`` as the authors wrote theirs (before zip files)."""
    torch.save(
        content(layout, model.state_dict()),
        path,
        _use_new_zipfile_serialization=False,
    )
    return path


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Largest error over the largest value."""
    assert got.shape == want.shape
    return float((got - want).abs().max() / want.abs().max())
