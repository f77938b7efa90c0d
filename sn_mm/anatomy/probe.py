# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Whether a norm with a forward of its own computes what its kind computes.

Libraries give the names of norms to layers that take another layout, return
more, or have an activation inside. What they do shows on an input.
"""

from __future__ import annotations

import copy
import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

_TOLERANCE = 1e-6


def equals_its_kind(module: nn.Module) -> bool:
    """Whether ``forward`` takes x alone, and normalizes as its kind does.

    Kinds: batch, instance and group norm for what derives from torch's, layer
    norm over the channels of each position for others. A copy with random
    parameters is run, in both modes; the module itself stays as it is.
    """
    if not _takes_x_alone(module):
        return False
    try:
        probe = _randomized(module)
        return all(_equal(probe.train(mode)) for mode in (True, False))
    except Exception:  # other people's forward may raise whatever it likes
        return False


def _takes_x_alone(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters
    kinds = [p.kind for p in parameters.values()]
    return kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2


def _randomized(module: nn.Module) -> nn.Module:
    probe = copy.deepcopy(module).to_empty(device='cpu').double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in (*probe.parameters(), *probe.buffers()):
            if t.is_floating_point():
                t.copy_(torch.rand(t.shape, generator=generator) + 0.5)
            else:
                t.zero_()
    return probe


@torch.no_grad()
def _equal(probe: nn.Module) -> bool:
    generator = torch.Generator().manual_seed(1)
    channels = getattr(probe, 'num_channels', None) or getattr(
        probe, 'num_features', None
    )
    channels = channels or probe.weight.numel()
    for shape in _shapes(probe, channels):
        x = torch.randn(shape, generator=generator, dtype=torch.float64) - 0.3
        want = _kind(probe, x)
        got = probe.forward(x.clone())
        if not isinstance(got, Tensor) or got.shape != want.shape:
            return False
        if not (got - want).abs().max() < _TOLERANCE:
            return False
    return True


def _shapes(probe: nn.Module, channels: int) -> list[tuple[int, ...]]:
    """Inputs whose other axes are not as long as C."""
    rows, columns = channels + 1, 2 if channels != 2 else 4
    if isinstance(probe, (nn.BatchNorm1d, nn.InstanceNorm1d)):
        return [(3, channels, rows)]
    if isinstance(probe, (nn.BatchNorm3d, nn.InstanceNorm3d)):
        return [(3, channels, columns, 1, 5)]
    return [(3, channels, rows, columns)]


def _kind(probe: nn.Module, x: Tensor) -> Tensor:
    """What a norm of this kind makes of x."""
    weight, bias = probe.weight, probe.bias
    if isinstance(probe, nn.GroupNorm):
        return F.group_norm(x, probe.num_groups, weight, bias, probe.eps)
    if isinstance(probe, (_BatchNorm, _InstanceNorm)):
        # called before the probe, which moves its running statistics
        mean, var = probe.running_mean, probe.running_var
        own = probe.training or mean is None
        if isinstance(probe, _BatchNorm):
            mean, var = (None, None) if own else (mean, var)
            return F.batch_norm(x, mean, var, weight, bias, own, 0, probe.eps)
        return F.instance_norm(
            x,
            None if own else mean,
            None if own else var,
            weight,
            bias,
            own,
            0.0,
            probe.eps,
        )
    last = x.movedim(1, -1)
    eps = getattr(probe, 'eps', None) or _eps_of(probe)
    normalized = F.layer_norm(last, last.shape[-1:], weight, bias, eps)
    return normalized.movedim(-1, 1)


def _eps_of(probe: nn.Module) -> float:
    for name in ('epsilon', 'variance_epsilon'):
        if hasattr(probe, name):
            return getattr(probe, name)
    raise AttributeError('eps')
