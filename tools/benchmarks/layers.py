# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The cost of one normalization layer beside its rivals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence

import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from sn_mm.functional import (
    normalize_rows,
    statistics,
    switchable_norm_reference,
)
from sn_mm.layers import RowNorm, SN2d, SyncSN
from sn_mm.utils import progress_bar

from .memory import kept_for_backward
from .timing import runs, time_together

# (N, C, H, W): the stages of a ResNet-50 detector at 800 x 1216, 2 images,
# and the features of 512 boxes and 256 masks
SHAPES = (
    (2, 64, 200, 304),
    (2, 256, 100, 152),
    (2, 512, 50, 76),
    (2, 2048, 25, 38),
    (512, 256, 7, 7),
    (256, 256, 14, 14),
)


class PlainSN(nn.Module):
    """SN by its formula, one PyTorch operation after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return switchable_norm_reference(
            x, self.mean_weight, self.var_weight, self.weight, self.bias
        )


class RuleOfBRN(nn.Module):
    """Batch Renormalization as a rule that the package does not know.

    What a new normalizer costs before anybody has written kernels for its
    numbers, or a layer. (Ioffe, 2017, with r up to 1.5 and d up to 0.5.)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer('running_mean', torch.zeros(channels))
        self.register_buffer('running_std', torch.ones(channels))

    def rule(self, m, v, size, weight, bias):
        mean, var = statistics.batch(m, v, size)
        std = (var + 1e-5).sqrt()
        with torch.no_grad():
            r = (std / self.running_std).clamp(1 / 1.5, 1.5)
            d = (mean - self.running_mean) / self.running_std
            d = d.clamp(-0.5, 0.5)
        return mean, weight * r / std, weight * d + bias

    def forward(self, x: Tensor) -> Tensor:
        return normalize_rows(x, self.rule, self.weight, self.bias)


def _with_relu(norm: nn.Module) -> nn.Module:
    """A norm and the ReLU behind it, as ConvModule has them."""
    return nn.Sequential(norm, nn.ReLU(inplace=True))


def _rectified(channels: int) -> nn.Module:
    """SN with the ReLU in its own sweeps."""
    norm = SN2d(channels)
    norm.rectifies = True
    return norm


class Copy(nn.Module):
    """One read and one write of the input forward, and one backward."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


# types of norms that are rules and nothing else: no kernel knows them
FAMILY = ('SSN', 'IBN', 'BRN', 'PN', 'DN', 'EN', 'KN', 'BHN')


def _registered(kind: str, channels: int) -> nn.Module:
    """A layer as a config's norm_cfg builds it."""
    return build_norm_layer(dict(type=kind), channels)[1]


NORMS: dict[str, Callable[[int], nn.Module]] = {
    'SN': SN2d,
    'SyncSN': SyncSN,
    'BN': nn.BatchNorm2d,
    'GN': lambda c: nn.GroupNorm(32, c),
    'LN': lambda c: nn.GroupNorm(1, c),  # over C, H and W
    'IN': lambda c: nn.InstanceNorm2d(c, affine=True),
    'BRN rule': RuleOfBRN,
    'SN, ReLU': lambda c: _with_relu(SN2d(c)),
    'GN, ReLU': lambda c: _with_relu(nn.GroupNorm(32, c)),
    'SN+ReLU': _rectified,
    'plain SN': PlainSN,
    'copy': lambda c: Copy(),
    **{kind: functools.partial(_registered, kind) for kind in FAMILY},
}


def known_norms() -> dict[str, Callable[[int], nn.Module]]:
    """:data:`NORMS`, and every other type of ours that a config can name."""
    types = {
        name: functools.partial(_registered, name)
        for name, cls in MODELS.module_dict.items()
        if isinstance(cls, type) and issubclass(cls, RowNorm)
    }
    return {**types, **NORMS}


# Reads and writes of the input's size over those of the copy, where nothing
# stays in a cache: moments (1), output (2); sums (2), input's gradient (3)
TRAFFIC = {True: 8 / 4, False: 3 / 2}


def benchmark_layers(
    norms: Sequence[str],
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    *,
    training: bool = True,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    repeats: int = 11,
) -> list[dict]:
    """Time every norm on every shape.

    Args:
        norms: names out of :func:`known_norms`.
        shapes: (N, C, H, W) of the inputs.
        training: time forward and backward in training mode, else forward
            in evaluation mode.
        device, dtype, channels_last: of the input; half precision keeps
            float32 parameters; on a GPU under autocast.
        repeats: rounds of which the median is taken.

    Returns:
        One dict per shape and norm: ``shape``, ``norm``, ``ms`` and, in
        training, ``kept``: bytes kept for backward over bytes of the input.

    Raises:
        ValueError: for an unknown norm.
    """
    check_norms(norms, known_norms())
    rows = []
    total = len(shapes) * runs(len(norms), repeats)
    with progress_bar('layers', total) as advance:
        for shape in shapes:
            x = torch.randn(shape, device=device).to(dtype)
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            rows += _measured(norms, x, training, repeats, advance)
    return rows


def _measured(
    norms: Sequence[str],
    x: Tensor,
    training: bool,
    repeats: int,
    advance: Callable[[], None],
) -> list[dict]:
    """The rows of one input."""
    known = known_norms()
    layers = {
        n: known[n](x.shape[1]).to(x.device).train(training) for n in norms
    }
    steps = {n: _run(layer, x, training) for n, layer in layers.items()}
    times = time_together(steps, repeats, x.device, advance=advance)
    rows = []
    for name, ms in times.items():
        row = dict(shape=list(x.shape), norm=name, ms=ms)
        if training:
            kept = kept_for_backward(layers[name], x)
            row['kept'] = kept / (x.numel() * x.element_size())
        rows.append(row)
    return rows


def check_norms(norms: Sequence[str], known: Collection[str]) -> None:
    """Raise ValueError for a name that is not known."""
    unknown = [n for n in norms if n not in known]
    if unknown:
        raise ValueError(
            f'unknown norm {unknown[0]!r}; choose from {", ".join(known)}'
        )


def _run(layer: nn.Module, x: Tensor, training: bool) -> Callable:
    """What is timed: a forward, and a backward in training."""
    params = list(layer.parameters())
    dy = torch.randn_like(x)
    leaf = x.detach().requires_grad_()
    # GroupNorm on a GPU takes half precision under autocast only
    is_mixed = x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
    autocast = torch.autocast(x.device.type, enabled=is_mixed)

    def step():
        with autocast:
            y = layer(leaf)
        return torch.autograd.grad(y, (leaf, *params), dy.to(y.dtype))

    def forward():
        with torch.no_grad(), autocast:
            return layer(x)

    return step if training else forward


def bandwidth_shares(rows: list[dict]) -> dict[str, float]:
    """Bandwidth over the copy's, the lower of the two largest inputs.

    Of what has to read x twice forward, and x and dy twice backward: a norm
    that finds part of it in a cache may pass 1.
    """
    copies = {tuple(r['shape']): r['ms'] for r in rows if r['norm'] == 'copy'}
    largest = sorted(copies, key=math.prod)[-2:]
    shares: dict[str, float] = {}
    for r in rows:
        shape, traffic = tuple(r['shape']), TRAFFIC['kept' in r]
        if shape in largest and r['norm'] != 'copy':
            share = traffic * copies[shape] / r['ms']
            shares[r['norm']] = min(share, shares.get(r['norm'], share))
    return shares


def geometric_means(rows: list[dict], over: str) -> dict[str, float]:
    """Every norm's time over that of ``over``, over all shapes."""
    base = {tuple(r['shape']): r['ms'] for r in rows if r['norm'] == over}
    logs: dict[str, list[float]] = {}
    for r in rows:
        ratio = r['ms'] / base[tuple(r['shape'])]
        logs.setdefault(r['norm'], []).append(math.log(ratio))
    return {n: math.exp(sum(v) / len(v)) for n, v in logs.items()}
