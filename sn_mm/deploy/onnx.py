# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The networks of a detector or segmentor as ONNX files, compared.

What the toolboxes do around the networks (boxes, NMS, RoI pooling, pasting
masks) is not part of the files; deployment tools add their own.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from sn_mm.anatomy.components import component_of
from sn_mm.anatomy.example import image_channels
from sn_mm.utils import written_whole

_OPSET = 17
_ROIS = 3


class Part(NamedTuple):
    """One network: module, and an input that it takes."""

    name: str
    module: nn.Module
    example: Tensor


class Exported(NamedTuple):
    """One file, and how far onnxruntime's outputs are from PyTorch's.

    ``error`` is relative to the largest output; None where onnxruntime is
    not installed.
    """

    name: str
    path: Path
    error: float | None


def parts_of(model: nn.Module, size: tuple[int, int]) -> list[Part]:
    """The networks of a model.

    Args:
        model: a detector of mmdet: backbone, neck and dense heads are one
            part, heads on RoIs one each. A segmentor of mmseg (logits), or
            any module that takes images: one part.
        size: height and width of the images, pixels.
    """
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    image = _random(first, 1, image_channels(model), *size)
    parts = [Part('image', _ImagePart(model).eval(), image)]
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        parts += _roi_parts(roi_head)
    return parts


@torch.no_grad()
def export_onnx(
    model: nn.Module, stem: Path, size: tuple[int, int] = (256, 256)
) -> list[Exported]:
    """Write every network of a model, and run it in onnxruntime.

    Args:
        model: in evaluation mode.
        stem: files are named ``STEM_image.onnx``, ``STEM_box_head.onnx``, ...
        size: height and width of the images, pixels; fixed in the files, the
            number of images and of RoIs is not.

    Raises:
        ModuleNotFoundError: without the package onnx.
    """
    if find_spec('onnx') is None:  # torch would raise an error of its own
        raise ModuleNotFoundError(
            'writing ONNX files needs the package onnx: pip install onnx'
        )
    done = []
    for part in parts_of(model, size):
        path = stem.with_name(f'{stem.name}_{part.name}.onnx')
        _export(part, path)
        done.append(Exported(part.name, path, _error(part, path)))
    return done


class _ImagePart(nn.Module):
    """From images to features, dense outputs or logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        if not isinstance(model, BaseModel):
            return tuple(_flat(model(x)))
        if hasattr(model, 'decode_head') or not hasattr(model, 'extract_feat'):
            return tuple(_flat(model(x, mode='tensor')))
        features = model.extract_feat(x)
        outputs = list(_flat(features))
        for name in ('rpn_head', 'bbox_head', 'mask_head'):
            head = getattr(model, name, None)
            if head is not None:
                outputs += _flat(head(features))
        return tuple(outputs)


class _RoIPart(nn.Module):
    """From RoI features through what they share to one head's outputs."""

    def __init__(self, shared: nn.Module | None, head: nn.Module) -> None:
        super().__init__()
        self.shared, self.head = shared, head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.shared is not None:
            x = self.shared(x)
        return tuple(_flat(self.head(x)))


def _roi_parts(roi_head: nn.Module) -> Iterator[Part]:
    shared = getattr(roi_head, 'shared_head', None)
    for name in ('bbox_head', 'mask_head'):
        heads = getattr(roi_head, name, None)
        if heads is None:
            continue
        several = isinstance(heads, nn.ModuleList)
        extractors = getattr(
            roi_head, name.replace('head', 'roi_extractor'), None
        )
        title = component_of(f'roi_head.{name}')
        for index, head in enumerate(heads if several else [heads]):
            extractor = extractors[index] if several else extractors
            side = extractor.roi_layers[0].output_size
            yield Part(
                f'{title}_{index}' if several else title,
                _RoIPart(shared, head).eval(),
                _random(head, _ROIS, extractor.out_channels, *side),
            )


def _export(part: Part, path: Path) -> None:
    options = dict(
        opset_version=_OPSET,
        input_names=['input'],
        dynamic_axes={'input': {0: 'count'}},
    )
    # The newer exporter needs one more package, and torch 2.0 lacks it.
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters:
        options['dynamo'] = False
    with written_whole(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about Python that is traced
        torch.onnx.export(
            part.module, (part.example,), str(temporary), **options
        )


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference of two outputs over the largest value wanted."""
    largest = wanted.abs().max().clamp(min=1e-12)
    return float((got - wanted).abs().max() / largest)


def _error(part: Part, path: Path) -> float | None:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(
        str(path), providers=['CPUExecutionProvider']
    )
    x = torch.cat([part.example, part.example.flip(0) * 0.5])
    got = session.run(None, {'input': x.cpu().numpy()})
    return max(
        relative_error(torch.from_numpy(one), other.cpu())
        for one, other in zip(got, part.module(x))
    )


def _random(like: nn.Module, *shape: int) -> Tensor:
    parameter = next(like.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    return x.to(parameter.device, parameter.dtype)


def _flat(outputs) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif outputs is not None:
        for output in outputs:
            yield from _flat(output)
