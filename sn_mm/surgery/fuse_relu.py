# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A norm and the ReLU behind it, in the norm's own sweeps."""

from __future__ import annotations

from collections import Counter

from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from torch import Tensor, nn

from sn_mm.layers import RowNorm


class PassingReLU(nn.ReLU):
    """A ReLU that passes on what the norm before it has rectified."""

    passes = False

    def forward(self, input: Tensor) -> Tensor:
        """max(input, 0)."""
        return input if self.passes else super().forward(input)


def fuse_relu(model: nn.Module) -> nn.Module:
    """Let norms of mmcv's ConvModules compute the ReLU that follows them.

    Forward and backward then read and write memory less often, and the
    input of the norm is all that is kept. Outputs, gradients, state dicts,
    configs and hooks on the ReLU stay as they are. Left alone are norms with
    hooks of their own, which would see other outputs, norms that several
    modules share, and modules whose activation is not ReLU or does not
    follow the norm at once.

    Args:
        model: changed in place; in training or evaluation.

    Returns:
        The model. How many pairs were fused is logged.

    Example:
        >>> from mmcv.cnn import ConvModule
        >>> import sn_mm
        >>> pair = ConvModule(3, 8, 1, norm_cfg=dict(type='SN'))
        >>> fuse_relu(pair).activate
        PassingReLU(inplace=True)
    """
    uses = Counter(
        child for module in model.modules() for child in module.children()
    )
    fused = 0
    for module in model.modules():
        if isinstance(module, ConvModule) and _is_pair(module, uses):
            # the same module, so that its hooks and those who hold it stay
            module.activate.__class__ = PassingReLU
            module.register_forward_pre_hook(_divide_work, with_kwargs=True)
            fused += 1
    print_log(f'fuse_relu: {fused} pair(s) of norm and ReLU', 'current')
    return model


def _is_pair(module: ConvModule, uses: Counter) -> bool:
    if not (module.with_norm and module.with_activation):
        return False
    norm = module.norm
    return (
        type(module).forward is ConvModule.forward
        and type(module.activate) is nn.ReLU
        and 'norm,act' in ','.join(module.order)
        and _can_rectify(norm)
        and uses[norm] == uses[module.activate] == 1
        and not (norm._forward_hooks or norm._forward_pre_hooks)
        and not (norm._backward_hooks or norm._backward_pre_hooks)
    )


def _can_rectify(norm: nn.Module) -> bool:
    return isinstance(norm, RowNorm) and norm.can_rectify


def _divide_work(module: ConvModule, args: tuple, kwargs: dict) -> None:
    """Who rectifies in this call: the norm, if both are asked for."""
    named = dict(zip(('x', 'activate', 'norm'), args), **kwargs)
    both = named.get('activate', True) and named.get('norm', True)
    both = both and _can_rectify(module.norm)
    if _can_rectify(module.norm):
        module.norm.rectifies = both
    module.activate.passes = both
