# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Keys and shapes of the public detection checkpoints.

Lists of the public FPN run from coarse to fine, mmdet's from fine to coarse;
the public background class comes first, mmdet's last (boxes) or not at all
(box regression, masks).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sn_mm.utils.errors import CheckpointError

from .entries import (
    BACKGROUND_LAST,
    Entry,
    NormKind,
    conv,
    norm,
    without_background,
)
from .resnet import (
    DEPTHS,
    STAGES,
    Shapes,
    classifier,
    infer_depth,
    norm_kind,
    stage,
    stem,
)

Params = dict[str, Any]
_FPN_BODY, _BODY = 'Conv_Body.conv_body.', 'Conv_Body.'


# -- what the files hold --
def backbone_entries(params: Params) -> Iterator[Entry]:
    """An ImageNet backbone converted for the public detection code.

    Args:
        params: 'fpn' (whether keys start with Conv_Body.conv_body), 'depth',
            'ratios', and 'fc', the classifier's classes or 0.
    """
    body = _FPN_BODY if params['fpn'] else _BODY
    yield from _body(body, params, STAGES)
    if params['fc']:
        yield from classifier(
            f'{body}classifier', params['fc'], params['depth']
        )


def detector_entries(params: Params) -> Iterator[Entry]:
    """A whole Faster or Mask R-CNN; params: :func:`detector_params`."""
    kind = NormKind(params['ratios'])
    if params['fpn']:
        yield from _fpn(params['dim'], params['depth'], kind)
        yield from _body(_FPN_BODY, params, STAGES)
    else:
        yield from _body(_BODY, params, STAGES[:3])
    yield from _rpn('FPN_RPN' if params['fpn'] else 'RPN', params)
    yield from _box_head(params, kind)
    yield from _box_outputs(params)
    if params['mask_convs']:
        yield from _mask(params, kind)


def _body(public: str, params: Params, stages) -> Iterator[Entry]:
    kind = NormKind(params['ratios'])
    yield from stem(f'{public}res1.', kind)
    for i in stages:
        yield from stage(
            f'{public}res{i + 1}',
            f'backbone.layer{i}',
            i,
            params['depth'],
            kind,
        )


def _fpn(dim: int, depth: int, kind: NormKind) -> Iterator[Entry]:
    width = 2048 if DEPTHS[depth][1] else 512
    laterals = ['Conv_Body.conv_top'] + [
        f'Conv_Body.topdown_lateral_modules.{i}.conv_lateral' for i in range(3)
    ]
    outputs = [f'Conv_Body.posthoc_modules.{i}' for i in range(4)]
    for i, public in enumerate(laterals):
        target = f'neck.lateral_convs.{3 - i}'
        yield from conv(f'{public}.0', f'{target}.conv', dim, width >> i, 1, 1)
        yield from norm(f'{public}.1', f'{target}.sn', dim, kind)
    for i, public in enumerate(outputs):
        target = f'neck.fpn_convs.{3 - i}'
        yield from conv(f'{public}.0', f'{target}.conv', dim, dim, 3, 3)
        yield from norm(f'{public}.1', f'{target}.sn', dim, kind)


def _rpn(name: str, params: Params) -> Iterator[Entry]:
    dim, anchors = params['dim'], params['anchors']
    yield from conv(
        f'RPN.{name}_conv', 'rpn_head.rpn_conv', dim, dim, 3, 3, bias=True
    )
    yield from conv(
        f'RPN.{name}_cls_score',
        'rpn_head.rpn_cls',
        anchors,
        dim,
        1,
        1,
        bias=True,
    )
    yield from conv(
        f'RPN.{name}_bbox_pred',
        'rpn_head.rpn_reg',
        anchors * 4,
        dim,
        1,
        1,
        bias=True,
    )


def _box_head(params: Params, kind: NormKind) -> Iterator[Entry]:
    head, dim = 'roi_head.bbox_head', params['dim']
    if not params['fpn']:
        yield from stage(
            'Box_Head.res5',
            'roi_head.shared_head.layer4',
            4,
            params['depth'],
            kind,
        )
        return
    fcs = ('fc',)
    if params['box_convs']:
        yield from _head_convs(
            'Box_Head.convs',
            f'{head}.shared_convs',
            params['box_convs'],
            dim,
            kind,
        )
    else:
        fcs = ('fc1', 'fc2')
    width = dim * params['roi_size'] ** 2
    for i, name in enumerate(fcs):
        yield from conv(
            f'Box_Head.{name}',
            f'{head}.shared_fcs.{i}',
            params['fc_dim'],
            width,
            bias=True,
        )
        width = params['fc_dim']


def _head_convs(
    public: str, target: str, count: int, dim: int, kind: NormKind
) -> Iterator[Entry]:
    """conv, norm, ReLU triples of one flat list."""
    for i in range(count):
        yield from conv(
            f'{public}.{3 * i}', f'{target}.{i}.conv', dim, dim, 3, 3
        )
        yield from norm(f'{public}.{3 * i + 1}', f'{target}.{i}.sn', dim, kind)


def _box_outputs(params: Params) -> Iterator[Entry]:
    rows, width = params['num_classes'] + 1, params['fc_dim']
    for public, target, count, op in (
        (
            'Box_Outs.cls_score',
            'roi_head.bbox_head.fc_cls',
            rows,
            BACKGROUND_LAST,
        ),
        (
            'Box_Outs.bbox_pred',
            'roi_head.bbox_head.fc_reg',
            4 * rows,
            without_background(4),
        ),
    ):
        yield Entry(f'{public}.weight', (count, width), f'{target}.weight', op)
        yield Entry(f'{public}.bias', (count,), f'{target}.bias', op)


def _mask(params: Params, kind: NormKind) -> Iterator[Entry]:
    dim, rows = params['dim'], params['num_classes'] + 1
    head, op = 'roi_head.mask_head', without_background(1)
    yield from _head_convs(
        'Mask_Head.conv_fcn', f'{head}.convs', params['mask_convs'], dim, kind
    )
    yield from conv(
        'Mask_Head.upconv', f'{head}.upsample', dim, dim, 2, 2, bias=True
    )
    public, target = 'Mask_Outs.classify', f'{head}.conv_logits'
    yield Entry(f'{public}.weight', (rows, dim, 1, 1), f'{target}.weight', op)
    yield Entry(f'{public}.bias', (rows,), f'{target}.bias', op)


# -- recognition --
def is_detector(shapes: Shapes) -> bool:
    """Whether a file with Conv_Body keys holds more than a backbone."""
    return any(
        k.startswith(
            ('RPN.', 'Box_Head.', 'Box_Outs.', 'Mask_', 'Conv_Body.conv_top.')
        )
        for k in shapes
    )


def backbone_params(shapes: Shapes) -> Params:
    """Of :func:`backbone_entries`."""
    fpn = f'{_FPN_BODY}res1.conv1.weight' in shapes
    body = _FPN_BODY if fpn else _BODY
    fc = shapes.get(f'{body}classifier.weight', (0,))
    return dict(
        fpn=fpn,
        depth=infer_depth(shapes, {i: f'{body}res{i + 1}' for i in STAGES}),
        ratios=norm_kind(shapes, f'{body}res1.sn1').ratios,
        fc=int(fc[0]),
    )


def detector_params(shapes: Shapes) -> Params:
    """Of :func:`detector_entries`: sizes that only the file knows."""
    fpn = 'Conv_Body.conv_top.0.weight' in shapes
    body, rpn = (_FPN_BODY, 'FPN_RPN') if fpn else (_BODY, 'RPN')
    stages = {i: f'{body}res{i + 1}' for i in STAGES[:3]}
    stages[4] = f'{body}res5' if fpn else 'Box_Head.res5'
    anchors, dim = _sizes(shapes, f'RPN.{rpn}_cls_score.weight', 2)
    rows, fc_dim = _sizes(shapes, 'Box_Outs.cls_score.weight', 2)
    params = dict(
        fpn=fpn,
        depth=infer_depth(shapes, stages),
        ratios=norm_kind(shapes, f'{body}res1.sn1').ratios,
        dim=dim,
        anchors=anchors,
        num_classes=rows - 1,
        fc_dim=fc_dim,
        box_convs=_count(shapes, r'Box_Head\.convs\.\d+\.mean_weight'),
        mask_convs=_count(shapes, r'Mask_Head\.conv_fcn\.\d+\.mean_weight'),
        roi_size=7,
    )
    if fpn:
        fc = 'Box_Head.fc' if params['box_convs'] else 'Box_Head.fc1'
        width = _sizes(shapes, f'{fc}.weight', 2)[1]
        params['roi_size'] = round((width / dim) ** 0.5)
    return params


def params_of_detector(shapes: Shapes) -> Params:
    """Of :func:`detector_entries`, from the shapes of mmdet's names."""
    fpn = 'neck.lateral_convs.0.conv.weight' in shapes
    stages = {i: f'backbone.layer{i}' for i in STAGES}
    if not fpn:
        stages[4] = 'roi_head.shared_head.layer4'
    head = r'roi_head\.{}\.\d+\.conv\.weight'
    anchors, dim = _sizes(shapes, 'rpn_head.rpn_cls.weight', 2)
    rows, fc_dim = _sizes(shapes, 'roi_head.bbox_head.fc_cls.weight', 2)
    params = dict(
        fpn=fpn,
        depth=infer_depth(shapes, stages),
        ratios=norm_kind(shapes, 'backbone.sn1').ratios,
        dim=dim,
        anchors=anchors,
        num_classes=rows - 1,
        fc_dim=fc_dim,
        box_convs=_count(shapes, head.format(r'bbox_head\.shared_convs')),
        mask_convs=_count(shapes, head.format(r'mask_head\.convs')),
        roi_size=7,
    )
    if fpn:
        key = 'roi_head.bbox_head.shared_fcs.0.weight'
        params['roi_size'] = round((_sizes(shapes, key, 2)[1] / dim) ** 0.5)
    return params


def _sizes(shapes: Shapes, key: str, count: int) -> tuple[int, ...]:
    if key not in shapes:
        raise CheckpointError(
            f'{key} is missing: the file is incomplete, or not one of the '
            'public Faster or Mask R-CNN checkpoints (docs/checkpoints.md)'
        )
    return tuple(int(n) for n in shapes[key][:count])


def _count(shapes: Shapes, pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, k)) for k in shapes)
