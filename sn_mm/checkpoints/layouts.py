# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The public layouts, and which one a file has: decided by keys alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from sn_mm.utils import join_names
from sn_mm.utils.errors import CheckpointError

from . import detectron, ibn_net, segmentation
from .entries import Entry, NormKind
from .resnet import (
    STAGES,
    Shapes,
    classifier,
    resnet_params,
    stage,
    stem,
)

_IBN_NETS = ('ibn-resnet', 'ibn-densenet')


@dataclass(frozen=True)
class Layout:
    """A public layout with its sizes filled in.

    Attributes:
        kind: 'resnet' (ImageNet, SSN, segmentation encoder),
            'detectron-backbone', 'detectron', 'seg-decoder', or of IBN-Net
            'ibn-resnet' and 'ibn-densenet'.
        params: the sizes: numbers, flags and strings, so that a converted
            file can carry them.
    """

    kind: str
    params: dict[str, Any]

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every key that a file of this layout holds, in its order."""
        return tuple(_ENTRIES[self.kind](self.params))

    @property
    def norm(self) -> NormKind | None:
        """Of the files of SN's authors; None of others."""
        if self.is_strict:
            return None
        return NormKind(
            self.params['ratios'], self.params.get('sparse', False)
        )

    @property
    def is_backbone(self) -> bool:
        """Whether it holds a backbone and, at most, its classifier."""
        return self.kind in ('resnet', 'detectron-backbone', *_IBN_NETS)

    @property
    def is_strict(self) -> bool:
        """Whether a file holds nothing that is not in the layout."""
        return self.kind in _IBN_NETS

    def __str__(self) -> str:
        if self.norm is None:
            return ibn_net.title(self.kind, self.params)
        norm = f'{self.norm.type}, ratios ({", ".join(self.norm.statistics)})'
        return f'{_TITLES[self.kind](self.params)}; {norm}'


def recognize(state: Mapping[str, Tensor]) -> Layout:
    """The public layout of a state dict.

    Args:
        state: as in the file; only keys and shapes are looked at.

    Raises:
        CheckpointError: none of the public layouts, one that is refused
            (pre-activation ResNet v2), or an incomplete file.
    """
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    if any(k.startswith('Conv_Body.') for k in shapes):
        if detectron.is_detector(shapes):
            return Layout('detectron', detectron.detector_params(shapes))
        return Layout('detectron-backbone', detectron.backbone_params(shapes))
    if ibn_net.is_ibn_net(shapes):
        return Layout(*ibn_net.ibn_params(shapes))
    if 'cbr.0.weight' in shapes:
        return Layout('seg-decoder', segmentation.decoder_params(shapes))
    prefix = 'module.' if 'module.conv1.weight' in shapes else ''
    _refuse_others(shapes, prefix)
    return Layout('resnet', resnet_params(shapes, prefix))


def _refuse_others(shapes: Shapes, prefix: str) -> None:
    if f'{prefix}sn_out.weight' in shapes:
        raise CheckpointError(
            'this is the pre-activation ResNet v2 (sn_out after the last '
            'stage, bare convolutions as shortcuts), for which mmdet and '
            'mmseg have no backbone; use a resnetv1sn file'
        )
    if f'{prefix}layer1.0.conv1.weight' in shapes:
        if f'{prefix}sn1.mean_weight' in shapes:
            return
        if f'{prefix}bn1.weight' in shapes:
            raise CheckpointError(
                'this ResNet has BN, not SN (bn1.weight): give it as '
                'bn2sn://FILE instead of sn://FILE'
            )
    if any(k.startswith(('backbone.', 'decode_head.')) for k in shapes):
        raise CheckpointError(
            "these keys are OpenMMLab's already (backbone., decode_head.): "
            'load the file as it is, without sn://'
        )
    raise CheckpointError(
        'no public SN layout has these keys: '
        f'{join_names(shapes) or "(none)"}. Known: ImageNet ResNet '
        '(conv1.weight, sn1.mean_weight, ...), detection (Conv_Body.*), '
        'segmentation decoder (cbr.0.weight, ...); docs/checkpoints.md '
        'has the table'
    )


# -- the plain ResNet --
def _resnet_entries(params: dict[str, Any]) -> Iterator[Entry]:
    prefix = params['prefix']
    kind = NormKind(params['ratios'], params['sparse'])
    yield from stem(prefix, kind)
    for i in STAGES:
        yield from stage(
            f'{prefix}layer{i}', f'backbone.layer{i}', i, params['depth'], kind
        )
    if params['fc']:
        yield from classifier(f'{prefix}fc', params['fc'], params['depth'])


_ENTRIES = {
    'resnet': _resnet_entries,
    'detectron-backbone': detectron.backbone_entries,
    'detectron': detectron.detector_entries,
    'seg-decoder': segmentation.decoder_entries,
    'ibn-resnet': ibn_net.resnet_entries,
    'ibn-densenet': ibn_net.densenet_entries,
}


# -- in words --
def _resnet_title(params: dict[str, Any]) -> str:
    fc = f'{params["fc"]}-way classifier' if params['fc'] else 'no classifier'
    return f'ResNet-{params["depth"]} (ImageNet or segmentation encoder), {fc}'


def _backbone_title(params: dict[str, Any]) -> str:
    use = 'FPN' if params['fpn'] else 'C4'
    return f'ResNet-{params["depth"]} converted for public {use} detectors'


def _detector_title(params: dict[str, Any]) -> str:
    mask = 'Mask' if params['mask_convs'] else 'Faster'
    neck = 'FPN' if params['fpn'] else 'C4'
    head = ''
    if params['fpn']:
        head = ', two-fc box head'
        if params['box_convs']:
            head = f', {params["box_convs"]}conv1fc box head'
    return (
        f'{mask} R-CNN R{params["depth"]}-{neck}{head}, '
        f'{params["num_classes"]} classes'
    )


def _decoder_title(params: dict[str, Any]) -> str:
    deep = ' with deep supervision' if params['inputs'][1] else ''
    return f'segmentation decoder c1{deep}, {params["num_classes"]} classes'


_TITLES = {
    'resnet': _resnet_title,
    'detectron-backbone': _backbone_title,
    'detectron': _detector_title,
    'seg-decoder': _decoder_title,
}
