# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Where an SN layer sits: component, stage, kind of layer, receptive field."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from .components import component_of, label
from .example import ExampleError
from .norms import has_ratios
from .ratios import LayerRatios
from .trace import trace_norms

SHORTCUT = 'shortcut'
OTHER = 'other'
_STEM = 'res1'
_OF_STEM = re.compile(r'stem|conv1|conv_?stem|first_conv|[a-z]*n\d?|norm\d?')
_STAGE = re.compile(r'(?:^|\.)(?:layer|stage)(\d+)(?:\.|$)')
_BLOCK = re.compile(r'(?:layer|stage)\d+\.(\d+)\.(?:([a-z_]+?)(\d+)|(.+))$')
_NORM_NAMES = re.compile(r'\.(?:sn|bn|gn|in|ln|norm|norm_layer)\d*$')
# how a history file writes an infinite receptive field
_IMAGE = 'image'


@dataclass(frozen=True)
class LayerInfo:
    """One SN layer.

    Attributes:
        name: in the model.
        component: see :func:`component_of`.
        stage: 'res1' (the stem) to 'res5' in backbones, and the first part
            of the name of what has no number there; else the component.
        kind: what it follows: '3x3', '1x1', '7x7', ..., 'shortcut' or
            'other'.
        statistics: in the order of the ratios.
        receptive_field: pixels; infinite for the whole image, None where it
            is that of a RoI, or not known.
    """

    name: str
    component: str
    stage: str
    kind: str
    statistics: tuple[str, ...]
    receptive_field: float | None = None

    @property
    def short(self) -> str:
        """A label for figures: ``res3.1.2`` is the block's second layer."""
        if self.component == 'backbone':
            block = _BLOCK.search(self.name)
            if block is None:
                own = _NORM_NAMES.sub('', self.name.removeprefix('backbone.'))
                return self.stage if self.stage == _STEM else own
            last = 's' if self.kind == SHORTCUT else block[3] or block[4]
            last = _NORM_NAMES.sub('', last)
            return f'{self.stage}.{int(block[1]) + 1}.{last}'
        name = _NORM_NAMES.sub('', self.name)
        for part in ('roi_head', 'bbox_head', 'mask_head', 'neck'):
            name = name.removeprefix(f'{part}.')
        return name.replace('_convs', '').removeprefix(f'{self.component}.')

    def to_json(self) -> dict:
        """A dict of plain values."""
        field = self.receptive_field
        return {
            **asdict(self),
            'statistics': list(self.statistics),
            'receptive_field': _IMAGE if field == math.inf else field,
        }

    @classmethod
    def from_json(cls, values: Mapping) -> LayerInfo:
        """The reverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError: for other dicts.
        """
        field = values['receptive_field']
        return cls(
            name=values['name'],
            component=values['component'],
            stage=values['stage'],
            kind=values['kind'],
            statistics=tuple(values['statistics']),
            receptive_field=math.inf if field == _IMAGE else field,
        )


def infos_of_model(
    model: nn.Module, size: int = 256
) -> tuple[list[LayerInfo], str]:
    """Every SN layer of a model, and a note on what could not be found out.

    Args:
        model: see :func:`trace_norms`.
        size: side of the example image, pixels.
    """
    layers = {n: m for n, m in model.named_modules() if has_ratios(m)}
    seen, note = {}, ''
    try:
        seen = trace_norms(model, layers, size)
    except ExampleError as error:
        note = f'receptive fields are not known: {error}'
    kernels = _kernels_by_order(model.state_dict(), layers)
    infos = []
    for name, layer in layers.items():
        trace = seen.get(name)
        kernel = trace.kernel if trace else kernels.get(name)
        field = trace.receptive_field if trace else None
        infos.append(
            _info(name, tuple(layer.statistics), kernel, field, model)
        )
    return infos, note


def infos_of_state(
    state: Mapping[str, Tensor], ratios: Iterable[LayerRatios]
) -> list[LayerInfo]:
    """The layers of a checkpoint, as far as names and shapes tell."""
    ratios = list(ratios)
    kernels = _kernels_by_order(state, {r.name for r in ratios})
    return [
        _info(r.name, r.statistics, kernels.get(r.name), None) for r in ratios
    ]


def _info(name, statistics, kernel, field, model=None) -> LayerInfo:
    component = component_of(name, model)
    return LayerInfo(
        name=name,
        component=component,
        stage=_stage(name, component),
        kind=_kind(name, kernel),
        statistics=statistics,
        receptive_field=field,
    )


def _stage(name: str, component: str) -> str:
    if component != 'backbone':
        return label(component)
    found = _STAGE.search(name)
    if found:
        return f'res{int(found[1]) + 1}'
    # what other networks have behind their stages (MobileNet's conv2)
    first = name.removeprefix('backbone.').split('.')[0]
    return _STEM if _OF_STEM.fullmatch(first) else first


def _kind(name: str, kernel: tuple[int, ...] | None) -> str:
    if {'downsample', 'shortcut'} & set(name.split('.')):
        return SHORTCUT
    if not kernel:
        return OTHER
    return 'x'.join(map(str, kernel))


def _kernels_by_order(
    state: Mapping[str, Tensor], names: Container[str]
) -> dict[str, tuple[int, ...]]:
    """Kernel of the convolution that a state dict has before named layers.

    Modules are registered in the order of their use in all of the
    toolboxes' networks.
    """
    kernels: dict[str, tuple[int, ...]] = {}
    last: tuple[int, ...] = ()
    for key, value in state.items():
        name, _, leaf = key.rpartition('.')
        if name in names:
            kernels.setdefault(name, last)
        elif leaf == 'weight' and value.dim() > 2:
            last = tuple(value.shape[2:])
    return kernels
