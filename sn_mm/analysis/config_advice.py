# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a config says about our norms that does not come out as meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from sn_mm.anatomy.components import label
from sn_mm.anatomy.deployment import deployment_text, deployments
from sn_mm.anatomy.untrained import untrained_for_good
from sn_mm.checkpoints.foreign import TO_SN, other_norms
from sn_mm.hooks.start_watch import TEACHER, keeps_running_statistics
from sn_mm.layers import RowNorm
from sn_mm.layers.hard import RATIO_PARAMETERS
from sn_mm.utils import join_names

from .advice import Start
from .norm_table import NormRow
from .start_files import state_here

_OURS = ('sn://', 'bn2sn://', 'bn2norm://')
# Those of the toolboxes' schemes whose models have batch norms, unless their
# names say otherwise.
_BN = ('torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://')
_OTHER_NORMS = ('gn', 'swin', 'vit', 'pvt', 'convnext')
_LARGE_MOMENTUM = 0.5
_BATCH_NORMS = ('BatchNorm', 'SyncBN')


def advise_on_config(
    model: nn.Module,
    cfg: Mapping[str, Any],
    rows: list[NormRow],
    images: int | None,
    starts: Sequence[Start],
    trained: bool,
    moved: Collection[nn.Parameter] | None = None,
) -> list[str]:
    """One line for everything that will surprise.

    Args:
        model: built from the config, in training mode.
        cfg: the config.
        rows: the model's norm layers.
        images: per GPU in training; None if unknown.
        starts: the weights that training starts from.
        trained: whether the model has weights that were loaded.
        moved: parameters that the optimizer moves; None if unknown.
    """
    wants = any(r.ratios is not None for r in rows) or _names_ours(
        dict(cfg.items())
    )
    if not wants:
        return []
    return [
        *(_batch_norms_left(model, rows) or _none_of_ours(rows)),
        *_bn_starts(model, rows, starts),
        *_stuck(model, cfg, rows, starts, trained, moved),
        *_teachers_without_buffers(model, cfg),
        *_without_hook(model, cfg),
        *_without_norm(model, cfg.get('model') or {}),
        *_decayed(cfg, rows),
        *_single_images(rows, images),
        *_momentum(model),
        *_deployments(model),
        *_imports(cfg),
    ]


def _batch_norms_left(model: nn.Module, rows: list[NormRow]) -> list[str]:
    """Beside our norms, those that go on to normalize with batches.

    But not in backbones that have them beside ours by design.
    """
    meant = tuple(
        f'{name}.' if name else ''
        for name, module in model.named_modules()
        if getattr(module, 'has_other_norms', False)
    )
    left = [
        r
        for r in rows
        if any(name in r.kind for name in _BATCH_NORMS)
        and 'running statistics' not in r.kind
        and not r.name.startswith(meant)
    ]
    if not left:
        return []
    counts = Counter((r.component, r.kind) for r in left)
    parts = [f'{n} x {kind} in {label(c)}' for (c, kind), n in counts.items()]
    return [
        f'batch norms are left in, not swapped: {", ".join(parts)} '
        f'({join_names([r.name for r in left], 2)}). Set norm_cfg at these '
        "parts (a top-level norm_cfg reaches none), or model=dict(type='"
        "ConvertNorm', ...) where the model has no such argument"
    ]


def _none_of_ours(rows: list[NormRow]) -> list[str]:
    """A norm_cfg of ours that reaches no part of the model."""
    if any(r.norm_type for r in rows):
        return []
    kinds = Counter(r.kind for r in rows)
    return [
        'the config has a norm_cfg of sn_mm, and the model no such layer, '
        f'but {", ".join(f"{n} x {kind}" for kind, n in kinds.items())}: a '
        'top-level norm_cfg reaches no part of an inherited model; set it at '
        "backbone, neck and heads, or write model=dict(type='ConvertNorm', "
        '...)'
    ]


def _bn_starts(
    model: nn.Module, rows: list[NormRow], starts: Sequence[Start]
) -> Iterator[str]:
    for start in starts:
        switchable = any(
            'SN' in r.kind and start.component in (None, r.component)
            for r in rows
        )
        name = start.checkpoint.lower()
        other = any(part in name for part in _OTHER_NORMS)
        if switchable and name.startswith(_BN) and not other:
            yield (
                f'{start.checkpoint} was trained with BN, and its norms do '
                f'not fit SN: {TO_SN} (bn2sn://{start.checkpoint})'
            )
        elif not name.startswith(_OURS):
            yield from _misfit(model, start)


def _misfit(model: nn.Module, start: Start) -> Iterator[str]:
    """What a file that is here already has in place of the model's norms."""
    found = state_here(model, start)
    said = other_norms(*found) if found else None
    if said:
        yield f'{start.checkpoint}: {said}'


def _stuck(
    model: nn.Module,
    cfg: Mapping[str, Any],
    rows: list[NormRow],
    starts: Sequence[Start],
    trained: bool,
    moved: Collection[nn.Parameter] | None,
) -> Iterator[str]:
    components = {r.name: r.component for r in rows}
    names = untrained_for_good(model, moved)
    if _mean_teachers(cfg):  # they take the student's ratios
        names = [n for n in names if not n.startswith('teacher.')]
    if not trained:
        filled = [s.component for s in starts if _has_ratios(s.checkpoint)]
        names = [
            n
            for n in names
            if None not in filled and components.get(n) not in filled
        ]
    if names:
        yield (
            f'{len(names)} SN layers are frozen (requires_grad=False in '
            'norm_cfg, frozen_stages), at a learning rate of 0 (lr_mult) or '
            'hard with the equal ratios of a new layer, and cannot learn '
            f'others: {", ".join(names)}. Set requires_grad=True and '
            'frozen_stages=-1, no lr_mult of 0, or start from weights '
            'that have ratios (sn:// or bn2sn://)'
        )


def _mean_teachers(cfg: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    hooks = cfg.get('custom_hooks') or []
    return [h for h in hooks if _name_of(h) == 'MeanTeacherHook']


def _name_of(hook: Mapping[str, Any]) -> str:
    """The name of a hook's type, which may be a class or have a scope."""
    kind = hook.get('type')
    return getattr(kind, '__name__', str(kind).rpartition('.')[2])


def _teachers_without_buffers(
    model: nn.Module, cfg: Mapping[str, Any]
) -> Iterator[str]:
    if not keeps_running_statistics(model):
        return
    if any(h.get('skip_buffer', True) for h in _mean_teachers(cfg)):
        yield TEACHER


def _has_ratios(checkpoint: str) -> bool:
    """Whether weights may have ratios: all but the toolboxes' own."""
    return checkpoint.startswith(_OURS) or '://' not in checkpoint


def _without_hook(model: nn.Module, cfg: Mapping[str, Any]) -> Iterator[str]:
    """Layers that a hook has to serve, where the config has none."""
    wanted = Counter(
        (m.norm_type, m.needs_hook)
        for m in model.modules()
        if isinstance(m, RowNorm) and m.needs_hook
    )
    hooks = {_name_of(h) for h in cfg.get('custom_hooks') or []}
    for (kind, hook), number in wanted.items():
        if hook not in hooks:
            yield (
                f'{number} {kind} layers need a {hook} in training, and '
                f"there is none: add dict(type='{hook}') to custom_hooks, or "
                'do its work in a hook of your own'
            )


def _without_norm(model: nn.Module, node: Any, path: str = '') -> Iterator:
    """Parts that are given a norm of ours and have none."""
    if isinstance(node, Mapping):
        norm = node.get('norm_cfg')
        if path and _is_ours(norm) and _has_none(model, path):
            yield (
                f'model.{path} is given norm_cfg={dict(norm)} and has no '
                f'such norm layer: its type {node.get("type")!r} has no '
                'place for it (of box heads, Shared4Conv1FCBBoxHead has)'
            )
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, value in children:
        name = f'{path}.{key}' if path else str(key)
        yield from _without_norm(model, value, name)


def _has_none(model: nn.Module, path: str) -> bool:
    try:
        part = model.get_submodule(path)
    except AttributeError:
        return False
    return not any(isinstance(m, RowNorm) for m in part.modules())


def _is_ours(norm: Any) -> bool:
    kind = norm.get('type') if isinstance(norm, Mapping) else None
    if isinstance(kind, str):
        kind = MODELS.module_dict.get(kind)
    return isinstance(kind, type) and issubclass(kind, RowNorm)


def _names_ours(node: Any, classes_only: bool = False) -> bool:
    """Whether a norm_cfg anywhere in a config is a norm of ours.

    Args:
        node: a config, or a part of one.
        classes_only: as a class, not by its registered name.
    """
    if isinstance(node, (list, tuple)):
        return any(_names_ours(n, classes_only) for n in node)
    if not isinstance(node, Mapping):
        return False
    return any(
        (
            str(key).endswith('norm_cfg')
            and _is_ours(value)
            and not (classes_only and isinstance(value.get('type'), str))
        )
        or _names_ours(value, classes_only)
        for key, value in node.items()
    )


def _decayed(cfg: Mapping[str, Any], rows: list[NormRow]) -> Iterator[str]:
    wrapper = cfg.get('optim_wrapper') or {}
    paramwise = wrapper.get('paramwise_cfg') or {}
    if paramwise.get('norm_decay_mult') != 0:
        return
    decayed = {
        f'{r.name}.{ratio}': r
        for r in rows
        if r.ratios is not None
        for ratio in RATIO_PARAMETERS
        if r.decayed == 'yes' or ratio in r.decayed.split(', ')
    }
    if decayed:
        names = dict.fromkeys(r.name for r in decayed.values())
        others = [
            f'{r.name}.{ratio}'
            for r in rows
            if r.ratios is not None
            for ratio in RATIO_PARAMETERS
        ]
        custom = paramwise.get('custom_keys') or {}
        keys = _keys_without_decay(list(decayed), others, custom)
        yield (
            f'weight decay reaches the ratios of {len(names)} SN layers in '
            f'spite of norm_decay_mult=0 ({join_names(names, 3)}): where '
            'custom_keys fit, mmengine leaves norm_decay_mult out, and takes '
            'the longest that fits. Add longer ones for the ratios, '
            f'custom_keys={{{join_names(keys, 8)}}}'
        )


def _keys_without_decay(
    decayed: list[str], ratios: list[str], custom: Mapping[str, Mapping]
) -> list[str]:
    """Keys that win over a config's own, and leave the rates as they are.

    Ends of names, as short as goes: they must be longer than the keys that
    fit now, and mean the same rate wherever they fit.

    Args:
        decayed: names of the parameters that are to have no decay.
        ratios: of all ratios.
        custom: ``custom_keys`` of the config.
    """

    def now(name: str) -> str:
        return max((k for k in custom if k in name), key=len, default='')

    def rate(name: str) -> float:
        return (custom.get(now(name)) or {}).get('lr_mult', 1)

    def ends(depth: int) -> dict[str, float]:
        return {
            '.'.join(name.split('.')[-depth:]): rate(name) for name in decayed
        }

    def wins(found: Mapping[str, float]) -> bool:
        return all(
            len(end) > len(now(name)) and value == rate(name)
            for end, value in found.items()
            for name in ratios
            if end in name
        )

    depths = range(1, max(name.count('.') for name in decayed) + 2)
    found = next((e for d in depths if wins(e := ends(d))), ends(depths[-1]))
    return [
        f"'{end}': dict(decay_mult=0{'' if v == 1 else f', lr_mult={v}'})"
        for end, v in found.items()
    ]


def _single_images(rows: list[NormRow], images: int | None) -> Iterator[str]:
    counts = Counter(r.norm_type for r in rows if r.norm_type and r.batch)
    if images != 1:
        return
    for kind, number in counts.items():
        fixes = []
        if f'Sync{kind}' in MODELS.module_dict:
            fixes.append(f'Sync{kind}')
        if 'SN' in kind:
            fixes.append("statistics=('in', 'ln')")
        yield (
            f'1 image per GPU, and {number} {kind} layers take batch '
            'statistics, which are instance statistics then: use '
            + (', or '.join(fixes) or 'another norm')
        )


def _momentum(model: nn.Module) -> Iterator[str]:
    names = [
        name
        for name, m in model.named_modules()
        if isinstance(m, RowNorm)
        and m.momentum is not None
        and m.momentum > _LARGE_MOMENTUM
    ]
    if names:
        yield (
            f'momentum above {_LARGE_MOMENTUM} in {len(names)} layers '
            f"({join_names(names, 2)}): it is PyTorch's here, the weight of "
            "the new batch; the public code's 0.9 is 0.1, its 0.997 is 0.003"
        )


def _deployments(model: nn.Module) -> Iterator[str]:
    found = deployments(model)
    if found:
        yield deployment_text(found)


def _imports(cfg: Mapping[str, Any]) -> Iterator[str]:
    imports = (cfg.get('custom_imports') or {}).get('imports') or []
    imports = [imports] if isinstance(imports, str) else imports
    if _names_ours(dict(cfg.items()), classes_only=True):
        return  # a config of classes has imported them
    if not any(str(i).partition('.')[0] == 'sn_mm' for i in imports):
        yield (
            "custom_imports has no sn_mm: the toolboxes' own tools do not "
            'know SN then; write custom_imports = dict(imports='
            f'{[*imports, "sn_mm"]})'
        )
