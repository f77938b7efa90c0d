# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""A layer of Switchable Normalization as switch.c reads it.

Sizes and settings are the same at every call, and planned once. Addresses
are written down each time, of tensors that were looked at.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from ..native.tensors import array_address, as_array, floats, scratch
from .switch_settings import Switch

Params = Sequence[Optional[Tensor]]
CHANNEL_ARRAYS = 60  # of switch.c, by_channel
_P, _I, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_BYTES = 8  # of a double


class Layer(ctypes.Structure):
    """``layer`` of switch.c, which says what the fields are."""

    _fields_ = [
        ('samples', _I),
        ('channels', _I),
        ('count', _I),
        ('ratio_groups', _I),
        ('num_groups', _I),
        ('in', _I),
        ('ln', _I),
        ('bn', _I),
        ('gn', _I),
        ('softmax', _I),
        ('drop_instance', _I),
        ('given', _I),
        ('threads', _I),
        ('eps', _D),
        ('bessel', _D),
        ('size', _D),
        ('mean_weight', _P),
        ('var_weight', _P),
        ('weight', _P),
        ('bias', _P),
        ('running_mean', _P),
        ('running_var', _P),
        ('moments', _P),
        ('ln_pool', _P),
        ('bn_pool', _P),
        ('gn_pool', _P),
        ('ln_grad', _P),
        ('bn_grad', _P),
        ('gn_grad', _P),
        ('ratios', _P),
        ('by_channel', _P),
    ]


class BackwardLayer(ctypes.Structure):
    """``backward_layer`` of switch.c."""

    _fields_ = [
        ('of', Layer),
        ('grads', _P),
        ('segments', _P),
        ('d_mean_weight', _P),
        ('d_var_weight', _P),
        ('d_weight', _P),
        ('d_bias', _P),
    ]


class Plan:
    """A layer's sizes and settings, and how its scratch is divided.

    Args:
        n, c, size: N, C and S of the input.
        logits: shape of mean_weight.
        given: whether the moments of 'bn' come from outside.
        threads: that may compute.
    """

    def __init__(
        self,
        switch: Switch,
        n: int,
        c: int,
        size: int,
        logits: tuple[int, ...],
        given: bool,
        threads: int,
    ) -> None:
        check_sizes(switch, c, logits)
        k, ratios = len(switch.statistics), math.prod(logits)
        places = {s: i for i, s in enumerate(switch.statistics)}
        groups = switch.num_groups if 'gn' in places else 1
        self._layer = Layer(
            samples=n,
            channels=c,
            count=k,
            ratio_groups=ratios // k,
            num_groups=groups,
            softmax=switch.softmax,
            drop_instance=switch.drop_instance,
            given=given,
            threads=threads,
            eps=switch.eps,
            bessel=switch.bessel,
            size=size,
            **{s: places.get(s, -1) for s in ('in', 'ln', 'bn', 'gn')},
        )
        self._logits = logits
        sizes = dict(
            ratios=2 * ratios,
            by_channel=CHANNEL_ARRAYS * c,
            ln_pool=2 * n,
            gn_pool=2 * n * groups,
            bn_pool=2 * c,
            ln_grad=2 * n,
            gn_grad=2 * n * groups,
            bn_grad=2 * c,
            grads=2 * n * c,
            segments=2 * n * c,
        )
        self._offsets, total = {}, 0
        for name, count in sizes.items():
            self._offsets[name] = total * _BYTES
            total += count
        self._forward = self._offsets['ln_grad'] // _BYTES
        self._backward = total

    def forward(self, params: Params, kept: list[Tensor]) -> Layer:
        """A layer with the addresses that forward needs.

        Args:
            params: mean_weight, var_weight, weight and bias.
            kept: gets tensors that have to outlive the layer.

        Raises:
            ValueError, TypeError: see :func:`checked_address`.
        """
        layer = Layer.from_buffer_copy(self._layer)
        self._place(layer, scratch('numbers', self._forward), params, kept)
        return layer

    def backward(
        self, params: Params, kept: list[Tensor]
    ) -> tuple[BackwardLayer, list[Tensor]]:
        """What backward needs, and the gradients of params, float32.

        Args, Raises: as for :meth:`forward`.
        """
        backward, at = BackwardLayer(of=self._layer), self._offsets
        layer, start = backward.of, scratch('numbers', self._backward)
        self._place(layer, start, params, kept)
        layer.ln_grad = start + at['ln_grad']
        layer.gn_grad = start + at['gn_grad']
        layer.bn_grad = start + at['bn_grad']
        backward.grads = start + at['grads']
        backward.segments = start + at['segments']
        c, ratios = layer.channels, params[0].numel()
        d_params = floats(2 * (ratios + c))
        first = d_params.data_ptr()
        backward.d_mean_weight = first
        backward.d_var_weight = first + 4 * ratios
        backward.d_weight = first + 8 * ratios
        backward.d_bias = first + 8 * ratios + 4 * c
        parts = list(d_params.split_with_sizes((ratios, ratios, c, c)))
        if len(self._logits) > 1:
            parts[:2] = (d.view(self._logits) for d in parts[:2])
        return backward, parts

    def _place(
        self, layer: Layer, start: int, params: Params, kept: list[Tensor]
    ) -> None:
        at = self._offsets
        layer.ratios = start
        layer.by_channel = start + at['by_channel']
        layer.ln_pool = start + at['ln_pool']
        layer.gn_pool = start + at['gn_pool']
        layer.bn_pool = start + at['bn_pool']
        mean_weight, var_weight, weight, bias = params
        of, dtype, logits = checked_address, torch.float32, self._logits
        layer.mean_weight = of(mean_weight, dtype, logits, 'mean_weight', kept)
        layer.var_weight = of(var_weight, dtype, logits, 'var_weight', kept)
        rows = (layer.channels,)
        if weight is not None:
            layer.weight = of(weight, dtype, rows, 'weight', kept)
        if bias is not None:
            layer.bias = of(bias, dtype, rows, 'bias', kept)


plan = functools.lru_cache(maxsize=512)(Plan)


def place_batch(layer: Layer, batch: Tensor, kept: list[Tensor]) -> None:
    """Use moments of 'bn' from outside.

    Args:
        batch: (2, 1, C), or (3, 1, C) with the number of positions, float64.
        others: as for :meth:`Plan.forward`.

    Raises:
        ValueError, TypeError: see :func:`checked_address`.
    """
    rows = 3 if batch.shape[0] == 3 else 2
    layer.bn_pool = checked_address(
        batch,
        torch.float64,
        (rows, 1, layer.channels),
        "the pooled 'bn'",
        kept,
    )


def place_running(
    layer: Layer, running: tuple[Tensor, Tensor], kept: list[Tensor]
) -> None:
    """Have these written where the layer's moments of 'bn' are.

    Args:
        running: mean and variance, (C,), float32.
        others: as for :meth:`Plan.forward`.

    Raises:
        ValueError, TypeError: see :func:`checked_address`.
    """
    rows, of, (mean, var) = (layer.channels,), checked_address, running
    layer.running_mean = of(mean, torch.float32, rows, 'the given mean', kept)
    layer.running_var = of(
        var, torch.float32, rows, 'the given variance', kept
    )


def checked_address(
    t: Tensor,
    dtype: torch.dtype,
    shape: Sequence[int],
    name: str,
    kept: list[Tensor],
) -> int:
    """The address of t, or of a copy that C can read, put into ``kept``.

    Raises:
        ValueError, TypeError: if it has another shape, or no values that C
            could read.
    """
    if t.shape != shape:
        raise ValueError(
            f'{name} has shape {tuple(t.shape)}, but needs {tuple(shape)}'
        )
    address = array_address(t, dtype)
    if not address:
        t = as_array(t, dtype, name)
        kept.append(t)
        address = t.data_ptr()
    return address


def check_sizes(switch: Switch, c: int, logits: tuple[int, ...]) -> None:
    """That groups and ratios fit the channels and the statistics."""
    groups, k = switch.num_groups, len(switch.statistics)
    if 'gn' in switch.statistics and (groups < 1 or c % groups):
        raise ValueError(f'num_groups={groups} does not divide {c} channels')
    sharing = logits[0] if len(logits) == 2 else 1
    fits = len(logits) in (1, 2) and logits[-1] == k
    if not fits or sharing < 1 or c % sharing:
        raise ValueError(
            f'mean_weight has shape {logits}; {c} channels and the '
            f'statistics {switch.statistics} need ({k},), or (G, {k}) with G '
            'channel groups'
        )
