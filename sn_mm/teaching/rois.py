# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Two RoI heads that look at the same regions.

What two networks say of a region can be compared only where the region is the
same. A cascade moves its regions from stage to stage by what it predicts, so
the student is given those of the teacher at every extraction of features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_EXTRACTOR = 'roi_extractor'


@dataclass
class Regions:
    """What the teacher's RoI head looked at, in one batch.

    Attributes:
        proposals: of each picture; mmengine's InstanceData.
        rois: (R, 5) of every call of a RoI extractor, in order.
    """

    proposals: list = field(default_factory=list)
    rois: list[Tensor] = field(default_factory=list)


@contextmanager
def recorded(roi_head: nn.Module, regions: Regions) -> Iterator[None]:
    """Within, ``regions.rois`` are noted down."""

    def note(module: nn.Module, args: tuple) -> None:
        regions.rois.append(args[1].detach())

    with _before_extraction(roi_head, note):
        yield


@contextmanager
def replayed(roi_head: nn.Module, regions: Regions) -> Iterator[None]:
    """Within, the extractors are given ``regions.rois`` in place of theirs."""
    left = iter(regions.rois)

    def replace(module: nn.Module, args: tuple) -> tuple:
        return (args[0], next(left), *args[2:])

    with _before_extraction(roi_head, replace):
        yield


def propose(model: nn.Module, feats: Any, samples: list) -> list:
    """A detector's proposals, of each picture as many as training samples.

    They are taken evenly from the best to the worst, since a head has to tell
    objects from background.
    """
    with torch.no_grad():
        found = model.rpn_head.predict(feats, samples, rescale=False)
    limit = _sampled(model.roi_head)
    return [_thinned(proposals, limit) for proposals in found]


def _sampled(roi_head: nn.Module) -> int | None:
    """RoIs of a picture that the head is trained with, None if unknown."""
    settings = getattr(roi_head, 'train_cfg', None)
    if isinstance(settings, (list, tuple)):  # a cascade's stages
        settings = settings[0] if settings else None
    sampler = settings.get('sampler') if settings else None
    return sampler.get('num') if sampler else None


def _thinned(proposals: Any, limit: int | None) -> Any:
    count = len(proposals)
    if limit is None or count <= limit:
        return proposals
    chosen = torch.linspace(0, count - 1, limit).round().long()
    return proposals[chosen.to(proposals.bboxes.device)]


@contextmanager
def _before_extraction(roi_head: nn.Module, hook: Any) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(hook)
        for module in _extractors(roi_head)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _extractors(roi_head: nn.Module) -> list[nn.Module]:
    """Each once, also where a box head and a mask head share it."""
    found = []
    for name, child in roi_head.named_children():
        if name.endswith(_EXTRACTOR):
            several = isinstance(child, nn.ModuleList)
            found += list(child) if several else [child]
    return list(dict.fromkeys(found))
