# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Models for inference: layers become what they amount to.

A map of each channel, or a layer of PyTorch: SN where its ratios are hard,
the others where they say so. "SN with hard ratios reduces computational
runtime in inference [...] BN layers can be turned into linear transformation"
(TPAMI 2019, Table XI, 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import nn

from sn_mm.anatomy.components import component_of
from sn_mm.anatomy.example import ExampleError
from sn_mm.anatomy.norms import find_norms, has_ratios, is_plain_norm
from sn_mm.anatomy.ratios import MOMENTS
from sn_mm.anatomy.trace import NormTrace, trace_norms
from sn_mm.layers import RowNorm, SN1d, SN2d, SN3d
from sn_mm.layers.hard import RATIO_PARAMETERS, pick_ratios
from sn_mm.layers.switchable import SwitchNorm

from .channel_affine import ChannelAffine
from .fold_conv import fold_into, foldable
from .fold_report import FoldedLayer, FoldReport
from .replace import has_hooks, replace_modules

# A smaller map in the example may be a single position on a small image, and
# there an instance norm is another thing than SN.
_SAFE_POSITIONS = 16
_INSTANCE_NORMS = (
    (SN1d, nn.InstanceNorm1d),
    (SN2d, nn.InstanceNorm2d),
    (SN3d, nn.InstanceNorm3d),
)


def fold(model: nn.Module, size: int = 256) -> nn.Module:
    """Replace layers of ours by what they compute in evaluation.

    Those of SN have to be hardened; others say what they amount to. BN for
    mean and variance goes into the convolution before it, or becomes a map of
    each channel where none precedes or somebody else reads its output; IN, LN
    or GN for both becomes PyTorch's layer; other pairs, and what PyTorch's
    layers do not compute exactly (``unbiased``), stay SN with the statistics
    in use. Which convolution a layer follows is seen in a run on an example
    image. Outputs stay the same up to rounding. Layers keep their names in
    the model, and layers with soft ratios stay as they are.

    Args:
        model: a detector, segmentor, classifier or any part; changed in
            place, and put into evaluation mode. Not for further training.
        size: height and width of the example image, pixels.

    Returns:
        The model, or the new layer where ``model`` is itself a norm. What
        was done is logged; :func:`fold_with_report` also returns it.

    Raises:
        ValueError: if no layer can be folded; the model is as before.
    """
    return fold_with_report(model, size)[0]


def fold_with_report(
    model: nn.Module, size: int = 256
) -> tuple[nn.Module, FoldReport]:
    """:func:`fold`, with an account of every layer."""
    layers = {
        name: m
        for name, m in find_norms(model).items()
        if has_ratios(m) or _is_fixed(m)
    }
    _check_foldable(model, layers)
    try:
        seen, note = trace_norms(model, layers, size), ''
    except ExampleError as error:
        seen, note = {}, str(error)
    modules = dict(model.named_modules())
    replaced, rows = {}, []
    for name, layer in layers.items():
        new, row = _folded(name, layer, seen.get(name), modules, model)
        rows.append(row)
        if new is not layer:
            replaced[layer] = new
    model = replace_modules(model, replaced)
    # not chained: train() of mmdet's ResNet returns None
    model.eval()
    report = FoldReport(rows, note)
    print_log(f'fold: {report.summary()}', logger='current')
    return model, report


def _is_fixed(layer: nn.Module) -> bool:
    """Whether evaluation is a constant map, or a layer of PyTorch."""
    return isinstance(layer, RowNorm) and (
        layer.inference_moments() is not None
        or layer.native_norm() is not None
    )


def _check_foldable(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    if any(m.choices() or _is_fixed(m) for m in layers.values()):
        return
    name = type(model).__name__
    kinds = dict.fromkeys(
        m.norm_type for m in model.modules() if isinstance(m, RowNorm)
    )
    if kinds and not any(hasattr(m, 'harden_') for m in layers.values()):
        raise ValueError(
            f'{name} has no layer to fold: its norms ({", ".join(kinds)}) '
            'look at their input in evaluation too, so that nothing of them '
            'is constant. Deploy the model as it is'
        )
    what = 'hardened SN layer' if layers else 'SN layer'
    raise ValueError(
        f'{name} has no {what} to fold: call sn_mm.harden(model) first, or '
        'load a checkpoint of tools/harden.py'
    )


@torch.no_grad()
def _folded(
    name: str,
    layer: nn.Module,
    seen: NormTrace | None,
    modules: Mapping[str, nn.Module],
    model: nn.Module,
) -> tuple[nn.Module, FoldedLayer]:
    """What takes the layer's place, and the account."""
    before = _numbers(layer)
    new, action, why, added = _decide(layer, seen, modules)
    new.train(False)
    choices = layer.choices() or {}
    if not choices and _is_fixed(layer):
        choices = dict.fromkeys(MOMENTS, (layer.norm_type,))
    row = FoldedLayer(
        name=name,
        component=component_of(name, model),
        mean='/'.join(dict.fromkeys(choices.get('mean', ('soft',)))),
        var='/'.join(dict.fromkeys(choices.get('var', ('soft',)))),
        action=action,
        why=why,
        numbers=before - _numbers(new) - added,
        elements=(
            seen.elements if seen and isinstance(new, nn.Identity) else 0
        ),
    )
    return new, row


class _Decision(NamedTuple):
    """The new layer, what was done, why no more, and numbers added."""

    new: nn.Module
    action: str
    why: str = ''
    added: int = 0


def _decide(
    layer: nn.Module, seen: NormTrace | None, modules: Mapping[str, nn.Module]
) -> _Decision:
    choices = layer.choices()
    if choices is None and not _is_fixed(layer):
        why = 'soft ratios'
        if not hasattr(layer, 'harden_'):
            why = 'ratios of each sample'
        return _Decision(layer, 'kept', why)
    if has_hooks(layer):
        return _Decision(layer, 'kept', 'has hooks')
    if not is_plain_norm(layer):
        return _Decision(layer, 'kept', 'is parametrized')
    if layer.inference_moments() is not None:
        return _without_batch(layer, seen, modules)
    if not isinstance(layer, SwitchNorm):
        return _as_native(layer, seen)
    used = {n for names in choices.values() for n in names}
    if 'in' in used and (
        seen is None or 1 <= seen.positions < _SAFE_POSITIONS
    ):
        return _Decision(layer, 'kept', _why_not_instance(seen))
    if len(used) == 1:
        (only,) = used
        if only != 'bn' and not layer.unbiased:
            new = _native(layer, only)
            return _Decision(new, f'native {only.upper()}')
        why = 'unbiased variance' if layer.unbiased else 'batch statistics'
        return _Decision(_reduced(layer, used), f'SN of {only}', why)
    names = [n for n in layer.statistics if n in used]
    return _Decision(_reduced(layer, used), f'SN of {", ".join(names)}')


def _as_native(layer: nn.Module, seen: NormTrace | None) -> _Decision:
    """A layer of PyTorch, if the layer says that it is one."""
    native = layer.native_norm()
    if native is None:
        return _Decision(layer, 'kept', 'no layer of PyTorch computes it')
    if seen is None or 1 <= seen.positions < _SAFE_POSITIONS:
        return _Decision(layer, 'kept', _why_not_instance(seen))
    return _Decision(native, f'native {type(native).__name__}')


def _why_not_instance(seen: NormTrace | None) -> str:
    """Why a layer of PyTorch may fail where ours does not."""
    why = 'not in the example run' if seen is None else 'a tiny map'
    return why + ': IN needs more than one position'


def _without_batch(
    layer: nn.Module, seen: NormTrace | None, modules: Mapping[str, nn.Module]
) -> _Decision:
    """BN of running statistics: a constant affine map."""
    obstacle = 'not in the example run' if seen is None else seen.obstacle
    if seen is not None and seen.source is not None:
        source = modules[seen.source]
        obstacle = foldable(source, modules.values())
        if not obstacle:
            added = fold_into(source, ChannelAffine.from_norm(layer))
            action = f'into {seen.source}'
            return _Decision(nn.Identity(), action, added=added)
    return _Decision(ChannelAffine.from_norm(layer), 'affine', obstacle)


def _native(layer: nn.Module, name: str) -> nn.Module:
    """PyTorch's layer of one normalizer, with the layer's parameters."""
    options = dict(eps=layer.eps, affine=layer.affine)
    if name == 'in':
        cls = next(
            new for old, new in _INSTANCE_NORMS if isinstance(layer, old)
        )
        new = cls(layer.num_features, **options)
    else:
        groups = 1 if name == 'ln' else layer.num_groups
        new = nn.GroupNorm(groups, layer.num_features, **options)
    new.weight, new.bias = layer.weight, layer.bias
    return new


def _reduced(layer: nn.Module, used: set[str]) -> nn.Module:
    """An SN layer with no more statistics than are in use."""
    cls = next(c for c in (SN1d, SN2d, SN3d) if isinstance(layer, c))
    indices = tuple(i for i, n in enumerate(layer.statistics) if n in used)
    with_bn = 'bn' in used
    new = cls(
        layer.num_features,
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats and with_bn,
        statistics=tuple(layer.statistics[i] for i in indices),
        unbiased=layer.unbiased,
        bn_eval=layer.bn_eval and with_bn,
        num_groups=layer.num_groups,
        ratio_groups=layer.ratio_groups,
        hard_ratios=True,
    ).to(layer.mean_weight.device, layer.mean_weight.dtype)
    new.weight, new.bias = layer.weight, layer.bias
    for name, ratios in zip(RATIO_PARAMETERS, layer.ratios().values()):
        getattr(new, name).copy_(pick_ratios(ratios, indices))
    if new.track_running_stats:
        for name in ('running_mean', 'running_var', 'num_batches_tracked'):
            setattr(new, name, getattr(layer, name))
    new.harden_()
    return new


def _numbers(module: nn.Module) -> int:
    return sum(t.numel() for t in module.state_dict().values())
