# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Does a model compute what the weights were trained for?

Most of it leaves no trace in keys and shapes: a wrong stride or variance
loads without complaint. Every message names the config line to change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, Optional

from torch import nn

from sn_mm.anatomy.norms import sets_ratios
from sn_mm.utils import join_names

from .ibn_net import model_of, module_of
from .layouts import Layout
from .resnet import DEPTHS, STAGES

Name = Callable[[str], Optional[str]]
Modules = dict[str, nn.Module]
_EPS = 1e-5


def contradictions(model: nn.Module, layout: Layout, name: Name) -> list[str]:
    """What in the model's config contradicts a public checkpoint.

    Args:
        model: that the checkpoint is for.
        layout: of the checkpoint.
        name: what the model calls a target; None for what it lacks.

    Returns:
        One sentence each, without repetition.
    """
    modules = dict(model.named_modules())
    found = [
        *_ibn_net(model, layout, name),
        *_norms(modules, layout, name),
        *_backbone(modules, layout, name),
        *_classes(modules, layout, name),
    ]
    return list(dict.fromkeys(found))


def component(name: str) -> str:
    """The config path of the part that a key of the model belongs to."""
    parts = name.split('.')
    if parts[0] == 'roi_head' and len(parts) > 2:
        return f'model.roi_head.{parts[1]}'
    known = ('backbone', 'neck', 'rpn_head', 'decode_head', 'auxiliary_head')
    return f'model.{parts[0]}' if parts[0] in known else 'the model'


# -- IBN-Net --
def _ibn_net(model: nn.Module, layout: Layout, name: Name) -> Iterator[str]:
    if layout.kind not in ('ibn-resnet', 'ibn-densenet'):
        return
    own = model.state_dict()
    names = {e.target: name(e.target) for e in layout.entries}
    lacks = [t for t, n in names.items() if n is not None and n not in own]
    if lacks:
        where = component(lacks[0])
        yield (
            f'{where} is another network than the file, {layout} (it lacks '
            f'{join_names(lacks, 2)}): set {where}='
            f'{model_of(layout.kind, layout.params)}, with custom_imports of '
            f'{module_of(layout.kind)}'
        )


# -- norms --
def _norms(modules: Modules, layout: Layout, name: Name) -> Iterator[str]:
    for layer in _layers(layout, 'mean_weight', name):
        module, where = modules.get(layer), component(layer)
        if sets_ratios(module):
            yield from _norm(module, layout, where)
        elif not _has_switchable(modules, layer):
            yield (
                f'{where} has no SN: set norm_cfg={norm_cfg(layout)} in '
                f'{where}'
            )


def norm_cfg(layout: Layout) -> str:
    """The norm_cfg that a checkpoint wants, as one writes it."""
    text = f"dict(type='{layout.norm.type}', unbiased=True"
    if layout.norm.ratios == 2:
        text += f', statistics={layout.norm.statistics}'
    return f'{text})'


def _layers(layout: Layout, leaf: str, name: Name) -> Iterator[str]:
    for entry in layout.entries:
        if entry.target.endswith(f'.{leaf}'):
            found = name(entry.target)
            if found is not None:
                yield found.rpartition('.')[0]


def _has_switchable(modules: Modules, layer: str) -> bool:
    """Whether the component has SN somewhere, so that others report."""
    head = layer.split('.')[0] if '.' in layer else ''
    return any(
        sets_ratios(m) for k, m in modules.items() if k.startswith(head)
    )


def _norm(module: nn.Module, layout: Layout, where: str) -> Iterator[str]:
    wanted = layout.norm
    if module.statistics != wanted.statistics or module.ratio_groups != 1:
        yield (
            f'the file has {wanted.ratios} ratios {wanted.statistics}, the '
            f'SN of {where} has statistics={module.statistics}, '
            f'ratio_groups={module.ratio_groups}: set statistics='
            f'{wanted.statistics} in norm_cfg of {where}'
        )
    if not module.unbiased:
        yield (
            'the weights were trained with the unbiased instance variance, '
            f'{where} has unbiased=False: set unbiased=True in norm_cfg of '
            f'{where}'
        )
    if module.eps != _EPS:
        yield (
            f'the weights were trained with eps={_EPS}, {where} has eps='
            f'{module.eps}: set eps={_EPS} in norm_cfg of {where}'
        )
    if hasattr(module, 'radius') != wanted.sparse:
        yield (
            f"the file's norm is {wanted.type}, {where} has "
            f"{type(module).__name__}: set type='{wanted.type}' in "
            f'norm_cfg of {where}'
        )


# -- backbone --
def _backbone(modules: Modules, layout: Layout, name: Name) -> Iterator[str]:
    if layout.kind == 'seg-decoder':
        yield from _dilation(modules)
        return
    stages = {}
    for i in STAGES:
        found = name(f'backbone.layer{i}.0.conv1.weight')
        stage = found and found[: -len('.0.conv1.weight')]
        if stage in modules:
            stages[i] = (stage, modules[stage])
    yield from _depth(stages, layout.params['depth'])
    for stage, module in stages.values():
        yield from _block(stage, module[0])
    sparse = layout.norm is not None and layout.norm.sparse
    for i, (stage, _) in list(stages.items())[:1]:
        root = stage[: -len(f'layer{i}')]
        yield from _stem(modules, root, sparse)


def _depth(
    stages: dict[int, tuple[str, nn.Module]], depth: int
) -> Iterator[str]:
    if not stages:
        return  # no ResNet, or none of its stages
    blocks, bottleneck = DEPTHS[depth]
    for i, (stage, module) in stages.items():
        has_bottleneck = hasattr(module[0], 'conv3')
        if len(module) != blocks[i - 1] or has_bottleneck != bottleneck:
            yield (
                f'the file is a ResNet-{depth} with {blocks[i - 1]} '
                f'{_kind(bottleneck)} blocks in stage {i}, {stage} has '
                f'{len(module)} {_kind(has_bottleneck)} blocks: set depth='
                f'{depth} in {component(stage)}'
            )


def _kind(bottleneck: bool) -> str:
    return 'bottleneck' if bottleneck else 'basic'


def _block(stage: str, block: nn.Module) -> Iterator[str]:
    where = component(stage)
    if hasattr(block, 'conv3') and max(block.conv1.stride) > 1:
        yield (
            f'the weights have the stride in the 3x3 convolution, {stage} '
            "has it in the 1x1 (style='caffe'): set style='pytorch' in "
            f'{where}'
        )
    shortcut = getattr(block, 'downsample', None)
    if shortcut is not None and isinstance(shortcut[0], nn.AvgPool2d):
        yield (
            f'{stage} pools its shortcuts (ResNetV1d, avg_down=True): set '
            f"type='ResNet' in {where}"
        )


def _stem(modules: Modules, root: str, sparse: bool) -> Iterator[str]:
    where = component(f'{root}x')
    if f'{root}stem' in modules:
        yield (
            f'{where} has a deep stem of 3x3 convolutions (ResNetV1c, V1d):'
            f" set type='ResNet' in {where}"
        )
    pool = modules.get(f'{root}maxpool')
    if isinstance(pool, nn.MaxPool2d) and (pool.padding == 0) != sparse:
        wanted = 'SSNResNet' if sparse else 'ResNet'
        yield (
            f'the stem of a {"SSN" if sparse else "SN"} checkpoint pools '
            f'with padding={0 if sparse else 1}, {where} with padding='
            f"{pool.padding}: set type='{wanted}' in {where}"
        )


def _dilation(modules: Modules) -> Iterator[str]:
    """The public encoder's first dilated block keeps the old dilation."""
    for i, first in ((3, 1), (4, 2)):
        stage = modules.get(f'backbone.layer{i}')
        if stage is None or len(stage) < 2:
            continue
        found = tuple(block.conv2.dilation[0] for block in stage)
        wanted = (first, *(2 * first for _ in found[1:]))
        if found != wanted:
            yield (
                f'backbone.layer{i} has dilations {found}, the public '
                f'encoder {wanted}: set strides=(1, 2, 1, 1), dilations='
                '(1, 1, 2, 4), contract_dilation=True in model.backbone'
            )


# -- classes --
def _classes(modules: Modules, layout: Layout, name: Name) -> Iterator[str]:
    for target, extra in (
        ('roi_head.bbox_head.fc_cls', 1),
        ('roi_head.mask_head.conv_logits', 0),
        ('decode_head.conv_seg', 0),
        ('auxiliary_head.conv_seg', 0),
    ):
        layer = modules.get(target)
        classes = layout.params.get('num_classes')
        if (
            layer is None
            or classes is None
            or name(f'{target}.weight') is None
        ):
            continue
        found = layer.weight.shape[0] - extra
        if found != classes:
            where = component(target + '.weight')
            yield (
                f'the file has {classes} classes, {where} has {found}: set '
                f'num_classes={classes} in {where}'
            )
