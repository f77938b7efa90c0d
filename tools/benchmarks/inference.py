# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What hard ratios and folding save at test time, in a whole detector."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from mmcv.cnn import fuse_conv_bn
from torch import nn

from sn_mm.anatomy.norms import has_ratios
from sn_mm.surgery import fold, harden
from sn_mm.utils import progress_bar

from .steps import NORM_CFGS, build
from .timing import runs, time_together

_ROIS = 100
_ROI_SIDE = 7
# What the layers that do not choose BN twice choose, in turns.
_OTHERS = (
    ('in', 'in'),
    ('ln', 'ln'),
    ('bn', 'in'),
    ('ln', 'bn'),
    ('in', 'ln'),
)


def benchmark_inference(
    shares: tuple[float, ...] = (0.5, 1.0),
    *,
    size: int = 384,
    images: int = 1,
    device: str = 'cpu',
    repeats: int = 7,
) -> list[dict]:
    """Time a detector's networks in evaluation.

    Faster R-CNN R50-FPN with a 4conv1fc head: backbone, neck, RPN and the
    box head on 100 RoIs for each image; boxes, RoI pooling and NMS are left
    out, being the same for all. With running statistics (frozen BN), as it
    is and with mmcv's fusion; with soft SN; and with hard SN of which a
    share of layers chose BN for mean and variance (the paper: half of them,
    TPAMI, Table XI, 7) and the others the remaining pairs in turns, before
    and after folding.

    Args:
        shares: of layers that chose BN twice.
        size: height and width of the images, pixels.
        images, device, repeats: as for whole steps.

    Returns:
        One dict per variant: ``model``, ``norm``, ``ms``, ``layers`` (norm
        layers left in it).
    """
    models = _models(shares)
    where = torch.device(device)
    candidates = {
        name: _forward(model.to(where), size, images, where)
        for name, model in models.items()
    }
    total = runs(len(candidates), repeats, 1)
    with progress_bar('inference', total) as advance:
        times = time_together(
            candidates, repeats, where, warmup=1, advance=advance
        )
    return [
        dict(model='detector', norm=name, ms=ms, layers=_count(models[name]))
        for name, ms in times.items()
    ]


def _models(shares: tuple[float, ...]) -> dict[str, nn.Module]:
    models = {'BN frozen': build('detector', NORM_CFGS['BN'])}
    models['BN frozen'].eval()
    fused = copy.deepcopy(models['BN frozen'])
    models['BN frozen, fused'] = fuse_conv_bn(fused)
    soft = models['SN'] = build('detector', NORM_CFGS['SN'])
    soft.eval()
    for share in shares:
        hard = choose(copy.deepcopy(soft), share)
        hard.eval()
        title = f'SN hard, {share:.0%} BN'
        models[title] = hard
        models[f'{title}, folded'] = fold(copy.deepcopy(hard))
    return models


def choose(model: nn.Module, share: float) -> nn.Module:
    """Hard ratios: ``share`` of the layers, evenly spread, BN for both."""
    layers = [m for m in model.modules() if has_ratios(m)]
    others = itertools.cycle(_OTHERS)
    for index, layer in enumerate(layers):
        whole = int((index + 1) * share) > int(index * share)
        pair = ('bn', 'bn') if whole else next(others)
        for weight, name in zip((layer.mean_weight, layer.var_weight), pair):
            with torch.no_grad():
                weight.zero_()
                weight[layer.statistics.index(name)] = 1
    return harden(model)


def _forward(
    model: nn.Module, size: int, images: int, device: torch.device
) -> Callable:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, size, size, generator=generator).to(device)
    rois = torch.randn(
        _ROIS * images, 256, _ROI_SIDE, _ROI_SIDE, generator=generator
    ).to(device)

    @torch.no_grad()
    def forward():
        model.rpn_head(model.extract_feat(x))
        model.roi_head.bbox_head(rois)

    return forward


def _count(model: nn.Module) -> int:
    """Layers that still do something to a map."""
    return sum(
        'Norm' in type(m).__name__ or has_ratios(m)
        for m in model.modules()
        if not next(m.children(), None)
    )
