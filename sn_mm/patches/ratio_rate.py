# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""``paramwise_cfg=dict(ratio_lr_mult=20.)``: a learning rate for ratios.

In a finetuning of some hundred steps the ratios of SN hardly move at the rate
of the weights. ``custom_keys`` could name them, but a key that is longer
('backbone.layer1') takes their place, a key for them takes the place of the
backbone's own rate, and the constructors of layer-wise decay read no
``custom_keys`` at all. So the factor is applied to what any constructor has
made, on top of all else. mmengine (0.10.0 to 0.10.7 at least) has no hook
there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any

from mmengine.optim.optimizer import builder
from torch import nn
from torch.optim import Optimizer

from sn_mm.anatomy.norms import has_ratios
from sn_mm.layers.hard import RATIO_PARAMETERS

_BUILD = 'build_optim_wrapper'
RATE = 'ratio_lr_mult'


def read_ratio_rates() -> None:
    """Let mmengine's optimizers know :data:`RATE`, once.

    Modules that imported the function by name get the wrapper too.
    """
    original = getattr(builder, _BUILD)
    if hasattr(original, 'reads_ratio_rates'):
        return

    @functools.wraps(original)
    def build(model: nn.Module, cfg: dict) -> Any:
        paramwise = dict(cfg.get('paramwise_cfg') or {})
        if RATE not in paramwise:
            return original(model, cfg)
        factor = paramwise.pop(RATE)
        wrapper = original(model, {**cfg, 'paramwise_cfg': paramwise or None})
        for one in getattr(wrapper, 'optim_wrappers', {'': wrapper}).values():
            scale_ratio_rates(one.optimizer, model, factor)
        return wrapper

    build.reads_ratio_rates = True
    for module in list(sys.modules.values()):
        if getattr(module, '__dict__', {}).get(_BUILD) is original:
            setattr(module, _BUILD, build)


def scale_ratio_rates(
    optimizer: Optimizer, model: nn.Module, factor: float
) -> None:
    """Multiply the learning rates of the ratios of a model.

    Call it before schedulers are made and before a state is loaded: groups
    that ratios share with other parameters are split.

    Args:
        optimizer: of the model.
        model: any; layers without ratios are passed over.
        factor: of the rate, positive.

    Raises:
        ValueError: another factor.
    """
    number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
    if not number or not 0 < factor < float('inf'):
        raise ValueError(f'{RATE}={factor!r} must be a positive number')
    ratios = {
        getattr(layer, name)
        for layer in model.modules()
        if has_ratios(layer)
        for name in RATIO_PARAMETERS
        if hasattr(layer, name)
    }
    for group in list(optimizer.param_groups):
        own = [i for i, p in enumerate(group['params']) if p in ratios]
        if len(own) == len(group['params']):
            group['lr'] *= factor
        elif own:
            optimizer.add_param_group(_taken_out(group, own, factor))


def _taken_out(group: dict, own: Iterable[int], factor: float) -> dict:
    """Parameters of a group, as one more group with another rate."""
    own = set(own)
    made = {**group, 'lr': group['lr'] * factor}
    size = len(group['params'])
    for key in ('params', 'param_names'):
        values = group.get(key)
        if values is not None and len(values) == size:
            made[key] = [v for i, v in enumerate(values) if i in own]
            group[key] = [v for i, v in enumerate(values) if i not in own]
    return made
