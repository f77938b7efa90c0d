# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Other modules in the places of some, and what hangs on a module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

# of torch's modules: where handles of hooks look for them
HOOKS = (
    '_forward_hooks',
    '_forward_hooks_with_kwargs',
    '_forward_hooks_always_called',
    '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
    '_backward_hooks',
    '_backward_pre_hooks',
    '_is_full_backward_hook',
)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody is told of the module's calls or gradients."""
    return any(getattr(module, name, None) for name in HOOKS)


def replace_modules(
    model: nn.Module, replaced: Mapping[nn.Module, nn.Module]
) -> nn.Module:
    """Put modules in the places of others, in place.

    Args:
        model: changed; names stay, and what is shared stays shared.
        replaced: new modules by old ones.

    Returns:
        The model, or the new module where the model itself is replaced.
    """
    for parent in list(model.modules()):
        changed = False
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
                changed = True
        # mmcv's ConvModule may fuse a batch norm, and asks only when told to
        if changed and getattr(parent, 'efficient_conv_bn_eval_forward', None):
            parent.turn_on_efficient_conv_bn_eval(True)
    return replaced.get(model, model)
