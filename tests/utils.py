# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What several tests share: the oracle's run and the error measure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.utils import digit_version
from mmengine.visualization import Visualizer
from torch import Tensor, nn

from sn_mm.anatomy.ratios import MOMENTS, LayerRatios
from sn_mm.functional import switchable_norm_reference
from sn_mm.kernels import backends

needs_compile = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.1')
    or sys.version_info >= (3, 13)
    and digit_version(torch.__version__) < digit_version('2.6'),
    reason='torch.compile does not take this Python',
)


@contextmanager
def instances_of_its_own() -> Iterator[None]:
    """What is done to mmengine's default scope inside ends with it.

    So do the visualizers of each toolbox, which runs look up by a name that
    all of them use.
    """
    before = {kind: dict(kind._instance_dict) for kind in _kept_by_name()}
    yield
    for kind in _kept_by_name():
        kind._instance_dict.clear()
        kind._instance_dict.update(before.get(kind, {}))


def _kept_by_name() -> list[type]:
    """mmengine's classes with instances by name, each its own."""
    kinds = [DefaultScope, Visualizer]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return kinds


def relative_error(got: Tensor, want: Tensor, floor: float = 1e-3) -> float:
    """Largest error over the largest value of ``want`` (at least floor)."""
    if not want.numel():
        assert got.shape == want.shape
        return 0.0
    error = (got.detach().double() - want.detach().double()).abs().max()
    return float(error / want.detach().abs().max().clamp(min=floor))


def is_hard(ratios: LayerRatios) -> bool:
    """Whether every ratio of a layer is 0 or 1."""
    largest = [getattr(ratios, moment).max(-1) for moment in MOMENTS]
    return all((values == 1).all() for values in largest)


def randomize(layer: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics, variances positive."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=gen))
        for name, b in layer.named_buffers():
            if name.endswith('running_mean'):
                b.copy_(torch.randn(b.shape, generator=gen))
            elif name.endswith(('running_var', 'running_std')):
                b.copy_(torch.rand(b.shape, generator=gen) + 0.5)
    return layer


def run(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output and every gradient of sum(layer(x) * dy)."""
    x = x.detach().requires_grad_()
    names, params = zip(*layer.named_parameters())
    y = layer(x)
    grads = torch.autograd.grad(y, (x, *params), dy)
    return dict(zip(('y', 'x', *names), (y.detach(), *grads)))


def run_reference(
    layer: nn.Module, x: Tensor, dy: Tensor, use_running: bool
) -> dict[str, Tensor]:
    """:func:`run` of an SN layer by float64 autograd through the oracle."""
    x = x.detach().double().requires_grad_()
    params = {
        n: p.detach().double().requires_grad_()
        for n, p in layer.named_parameters()
    }
    if use_running:
        running = (layer.running_mean.double(), layer.running_var.double())
    else:
        running = (None, None)
    y = switchable_norm_reference(
        x,
        params['mean_weight'],
        params['var_weight'],
        params.get('weight'),
        params.get('bias'),
        *running,
        statistics=layer.statistics,
        unbiased=layer.unbiased,
        num_groups=layer.num_groups,
        eps=layer.eps,
    )
    grads = torch.autograd.grad(
        y, (x, *params.values()), dy.double(), allow_unused=True
    )
    grads = [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(grads, (x, *params.values()))
    ]
    return dict(zip(('y', 'x', *params), (y.detach(), *grads)))


def assert_close(
    got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float
) -> None:
    """Every tensor within ``tolerance`` by :func:`relative_error`."""
    assert got.keys() == want.keys()
    for name, value in got.items():
        assert torch.isfinite(value).all(), name
        error = relative_error(value, want[name])
        assert error < tolerance, (name, error)


def cpu_autocast_dtypes() -> list[torch.dtype]:
    """What autocast takes on a CPU: float16 too, from torch 2.3 on."""
    if digit_version(torch.__version__) < digit_version('2.3'):
        return [torch.bfloat16]
    return [torch.bfloat16, torch.float16]


def usable_backends() -> list[str]:
    """Implementations of the sweeps that this machine can run on a CPU."""
    x = torch.zeros(1, 1, 2)
    names = ['aten']
    for name in ('native', 'triton'):
        try:
            backends(x, name)
        except (ValueError, ImportError):
            continue
        names.append(name)
    return names
