# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A forward pass through all parts of a model, on an example image.

For what has to see the data flow: receptive fields, map sizes, folding. The
model is left exactly as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

_ROIS = 4


class ExampleError(RuntimeError):
    """The model cannot be run on an example image; the message says why."""


def run_example(model: nn.Module, size: int = 256) -> list:
    """Run backbone, neck and heads once, in evaluation mode.

    mmdet's detectors are run with their RoI heads, on a handful of RoIs,
    mmseg's segmentors with their auxiliary heads. Mode, statistics, random
    state and settings of the model are as before afterwards.

    Args:
        model: a detector, segmentor, classifier, or any module that takes
            images (N, C, H, W).
        size: height and width of the image, pixels.

    Returns:
        The outputs of every pass.

    Raises:
        ExampleError: if the model does not run that way.
    """
    with _untouched(model), torch.no_grad():
        try:
            return list(_passes(model, _image(model, size)))
        except Exception as error:  # models raise whatever they like
            reason = str(error).splitlines()
            raise ExampleError(
                f'{type(model).__name__} does not run on an example image of '
                f'{size} x {size} pixels: '
                f'{reason[0] if reason else type(error).__name__}'
            ) from error


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes.

    Those of its first convolution; a quarter of them in YOLOX, whose Focus
    stacks every other pixel before it.
    """
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    for module in model.modules():
        if type(module).__name__ == 'Focus':
            return image_channels(nn.ModuleList(module.children())) // 4
        if isinstance(module, kinds):
            return module.in_channels
    return 3


def _image(model: nn.Module, size: int) -> Tensor:
    channels = image_channels(model)
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, size, size, generator=generator)
    return image if like is None else image.to(like.device, like.dtype)


def _passes(model: nn.Module, image: Tensor) -> Iterator:
    if not isinstance(model, BaseModel):
        yield model(image)
        return
    size = tuple(image.shape[2:])
    if hasattr(model, 'decode_head'):
        yield model(image, _samples('mmseg', size), mode='tensor')
        yield from _auxiliary(model, image)
    elif hasattr(model, 'data_preprocessor') and _is_of(model, 'mmdet'):
        yield model(image, _samples('mmdet', size), mode='tensor')
    else:
        yield model(image, mode='tensor')


def _auxiliary(model: nn.Module, image: Tensor) -> Iterator:
    """Heads that mmseg runs in training only."""
    heads = getattr(model, 'auxiliary_head', None)
    if heads is None:
        return
    for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
        yield head(model.extract_feat(image))


def _is_of(model: nn.Module, toolbox: str) -> bool:
    return any(c.__module__.startswith(toolbox) for c in type(model).__mro__)


def _samples(toolbox: str, size: tuple[int, int]) -> list:
    if toolbox == 'mmdet':
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmseg.structures import SegDataSample as Sample
    meta = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        img_id=0,
    )
    return [Sample(metainfo=meta)]


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    modes = {m: m.training for m in model.modules()}
    test_cfg = getattr(getattr(model, 'rpn_head', None), 'test_cfg', None)
    rois = test_cfg.get('max_per_img') if test_cfg else None
    devices = {p.device for p in model.parameters() if p.is_cuda}
    try:
        for module in modes:  # not .eval(), which some models extend
            module.training = False
        if rois is not None:
            test_cfg.max_per_img = min(rois, _ROIS)
        with torch.random.fork_rng(devices=[d.index for d in devices]):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        if rois is not None:
            test_cfg.max_per_img = rois
