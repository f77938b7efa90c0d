# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which component of a detector or segmentor a module belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Union

from torch import nn

Components = Union[str, Sequence[str], None]

# In the order of the data; the labels are those of the paper's figures.
LABELS = {
    'backbone': 'backbone',
    'neck': 'FPN / neck',
    'rpn_head': 'RPN',
    'shared_head': 'shared head',
    'box_head': 'box head',
    'mask_head': 'mask head',
    'decode_head': 'decode head',
    'auxiliary_head': 'auxiliary head',
    'head': 'head',
}
# Of the toolboxes' names, dotted, the longest that fits counts.
_PARTS = {
    'backbone': 'backbone',
    'neck': 'neck',
    'rpn_head': 'rpn_head',
    'bbox_head': 'box_head',
    'mask_head': 'mask_head',
    'roi_head.shared_head': 'shared_head',
    'roi_head.bbox_head': 'box_head',
    'roi_head.mask_head': 'mask_head',
    'roi_head.mask_iou_head': 'mask_head',
    'decode_head': 'decode_head',
    'auxiliary_head': 'auxiliary_head',
    'head': 'head',
}
_WRAPPERS = ('module.', 'model.', 'detector.', 'student.', 'teacher.')
# Components of models that are no more than that part, by their packages.
_PACKAGES = {
    'backbones': 'backbone',
    'necks': 'neck',
    'bbox_heads': 'box_head',
    'mask_heads': 'mask_head',
    'decode_heads': 'decode_head',
}
# What a ResNet's own modules are called, in a file of its weights alone.
_RESNET = re.compile(r'(layer\d+|stem|conv\d+|[a-z]+\d+|downsample)(\.|$)')
_ALIASES = {'fpn': 'neck', 'rpn': 'rpn_head', 'bbox_head': 'box_head'}


def component_of(name: str, model: nn.Module | None = None) -> str:
    """The component that a module (or a tensor) belongs to.

    Args:
        name: dotted, in the whole model or in a backbone.
        model: what the name is from, for parts that stand alone.

    Returns:
        A key of :data:`LABELS`, or the first part of the name for what the
        toolboxes do not call one of these.

    Example:
        >>> component_of('roi_head.bbox_head.shared_convs.0.sn')
        'box_head'
        >>> component_of('layer1.0.sn1')
        'backbone'
    """
    for wrapper in _WRAPPERS:
        if name.startswith(wrapper):
            name = name[len(wrapper) :]
    fitting = [p for p in _PARTS if f'{name}.'.startswith(f'{p}.')]
    if fitting:
        return _PARTS[max(fitting, key=len)]
    if model is not None:
        packages = type(model).__module__.split('.')
        for package, component in _PACKAGES.items():
            if package in packages:
                return component
    if _RESNET.match(name):
        return 'backbone'
    return name.split('.')[0] or 'model'


def label(component: str) -> str:
    """How a figure or a table calls a component."""
    return LABELS.get(component, component.replace('_', ' '))


def in_components(
    model: nn.Module, names: Sequence[str], components: Components
) -> list[str]:
    """Those of ``names`` that belong to ``components``.

    Args:
        model: what the names are from.
        names: of modules.
        components: one or several; None selects all. 'fpn', 'rpn' and
            'bbox_head' are understood as well.

    Raises:
        ValueError: for a component that none of the names belongs to.
    """
    if components is None:
        return list(names)
    if isinstance(components, str):
        components = [components]
    of = {name: component_of(name, model) for name in names}
    wanted = {_ALIASES.get(c.lower(), c.lower()): c for c in components}
    for component, given in wanted.items():
        if component not in of.values():
            raise ValueError(
                f'component {given!r} has no norm layer in this model; those '
                f'that have are {sorted(set(of.values()))}'
            )
    return [name for name in names if of[name] in wanted]


def in_order(components: Sequence[str]) -> list[str]:
    """Distinct components in the order of the data, unknown ones last."""
    known = [c for c in LABELS if c in components]
    return known + [c for c in dict.fromkeys(components) if c not in LABELS]
