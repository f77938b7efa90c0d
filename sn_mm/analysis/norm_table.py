# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every norm layer of a model, and what becomes of it in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sn_mm.anatomy.components import component_of, in_order, label
from sn_mm.anatomy.norms import (
    find_norms,
    has_ratios,
    is_plain_norm,
    num_channels,
)
from sn_mm.anatomy.ratios import MOMENTS, LayerRatios, ratio_layers
from sn_mm.layers import RowNorm
from sn_mm.utils import text_table

_YES, _NO = 'yes', 'no'
# the start of a layer that no weights fill
NEW = 'new'


@dataclass(frozen=True)
class NormRow:
    """One norm layer.

    Attributes:
        name, component, kind: the layer, its component and its class.
        channels: C; None for kinds that do not tell.
        trainable: 'yes', 'no', or the names of the parameters that train.
        decayed: likewise, of those that weight decay pulls to 0; '?' where
            the optimizer is not known.
        batch: whether training normalizes with this process's batch; False
            for kinds without batch statistics, frozen and synchronized ones.
        ratios: of layers that have such, else None.
        norm_type: what a config calls the layer, where it is one of ours.
        start: where its weights come from.
    """

    name: str
    component: str
    kind: str
    channels: int | None
    trainable: str
    decayed: str
    batch: bool
    ratios: LayerRatios | None = None
    norm_type: str = ''
    start: str = NEW


def norm_rows(
    model: nn.Module,
    decay: Mapping[nn.Parameter, float] | None = None,
    starts: Mapping[str, str] | None = None,
) -> list[NormRow]:
    """A row for every norm layer, in the model's order.

    Args:
        model: in training mode, as the toolbox would put it.
        decay: weight decay of each parameter that is optimized.
        starts: by layer, see :func:`.starts.starts_of_layers`.
    """
    norms = find_norms(model)
    switch = {n: m for n, m in norms.items() if has_ratios(m)}
    ratios = {}
    if switch:
        ratios = {r.name: r for r in ratio_layers(switch)}
    return [
        replace(
            _row(name, module, model, decay, ratios.get(name)),
            start=(starts or {}).get(name, NEW),
        )
        for name, module in norms.items()
    ]


def _row(name, module, model, decay, ratios) -> NormRow:
    is_ours = isinstance(module, RowNorm)
    parameters = (
        module.parameters_in_use()
        if is_ours
        else dict(module.named_parameters())
    )
    trained = {n: p for n, p in parameters.items() if p.requires_grad}
    decayed = '?'
    if decay is not None:
        pulled = {n for n, p in trained.items() if decay.get(p)}
        decayed = _some(pulled, parameters)
    return NormRow(
        name=name,
        component=component_of(name, model),
        kind=_kind(module),
        channels=num_channels(module) if is_plain_norm(module) else None,
        trainable=_some(trained, parameters),
        decayed=decayed,
        batch=_uses_own_batch(module),
        ratios=ratios,
        norm_type=getattr(module, 'norm_type', ''),
    )


def _some(names, parameters) -> str:
    """'yes' for all, 'no' for none, or the names."""
    if not names:
        return _NO
    if len(names) == len(parameters):
        return _YES
    return ', '.join(n for n in parameters if n in names)


def _kind(module: nn.Module) -> str:
    name = type(module).__name__
    if has_ratios(module) and module.hard_ratios:
        name += ', hard'
    if isinstance(module, nn.GroupNorm):
        name += f'({module.num_groups})'
    if isinstance(module, _BatchNorm) and not module.training:
        name += ', running statistics'
    return name


def _uses_own_batch(module: nn.Module) -> bool:
    if not module.training:
        return False
    if isinstance(module, RowNorm):
        return module.takes_batch and not module.is_synchronized
    return isinstance(module, _BatchNorm) and not isinstance(
        module, nn.SyncBatchNorm
    )


def table(rows: list[NormRow]) -> str:
    """The rows as aligned text; ratios in the order of the statistics."""
    head = [
        'layer',
        'component',
        'type',
        'C',
        'start',
        'mean ratios',
        'var ratios',
        'trainable',
        'decayed',
    ]
    cells = []
    for row in rows:
        ratios = [_ratio_text(row.ratios, kind) for kind in MOMENTS]
        channels = '' if row.channels is None else str(row.channels)
        cells.append(
            [row.name, label(row.component), row.kind, channels, row.start]
            + ratios
            + [row.trainable, row.decayed]
        )
    return text_table(head, cells, rule=True)


def _ratio_text(ratios: LayerRatios | None, kind: str) -> str:
    if ratios is None:
        return ''
    pairs = zip(ratios.statistics, ratios.average(kind))
    return ' '.join(f'{name} {share:.2f}' for name, share in pairs)


def summary(rows: list[NormRow]) -> str:
    """How many layers of each type every component has."""
    lines = []
    for component in in_order([r.component for r in rows]):
        own = [r for r in rows if r.component == component]
        kinds = Counter(r.kind for r in own).most_common()
        frozen = sum(r.trainable == _NO for r in own)
        text = ', '.join(f'{n} x {kind}' for kind, n in kinds)
        text += f'; {frozen} frozen' if frozen else ''
        lines.append(f'{label(component)}: {text}')
    return '\n'.join(lines)
