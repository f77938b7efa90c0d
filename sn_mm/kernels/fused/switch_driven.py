# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization on a CPU in one call of C each way.

The sweeps' driver (native/driver.c) with the numbers of switch.c in between:
for one process, where nothing has to be exchanged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from ..native import driver
from ..native.sweeps import Rows, thread_count
from ..native.tensors import doubles, floats, scratch
from . import switch_native
from .switch_native import (
    CHANNEL_ARRAYS,
    BackwardLayer,
    Layer,
    check_sizes,
    checked_address,
    function_address,
)
from .switch_settings import Switch

Params = Sequence[Optional[Tensor]]
_BYTES = 8  # of a double


def why_not() -> str | None:
    """Why this is not to be had; None where it is."""
    return switch_native.why_not() or driver.why_not()


def normalize(
    switch: Switch,
    rows: Rows,
    params: Params,
    given: Tensor | None,
    keep: bool,
    relu: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The output, and what of x is worth keeping.

    Args:
        switch: the layer.
        rows: x as C reads it.
        params: mean_weight, var_weight, weight and bias, see
            :func:`sn_mm.kernels.fused.switch_native.forward`.
        given: (2, 1, C), float64, mean and variance in place of the batch's
            for 'bn'.
        keep: return the moments of x too, unless with ``given``: samples are
            then done one after the other, while they are in the cache.
        relu: max(y, 0).

    Returns:
        y; the moments (2, N, C) or None; the batch's (2, 1, C), float64, or
        ``given``.
    """
    plan = _plan(switch, rows, params[0], given)
    layer, kept = Layer.from_buffer_copy(plan.layer), []
    plan.place(layer, scratch('numbers', plan.forward))
    _place_params(layer, rows.channels, params, kept)
    if given is None:
        batch = doubles(2, 1, rows.channels)
        layer.bn_pool = batch.data_ptr()
    else:
        batch = given
        _place_given(layer, given, kept)
    function = function_address('switch_forward')
    y, moments = driver.forward(
        rows, function, layer, keep, relu, by_sample=given is not None
    )
    return y, moments, batch


def differentiate(
    switch: Switch,
    rows: Rows,
    moments: Tensor | None,
    params: Params,
    given: Tensor | None,
    wanted: bool,
    relu: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of x, if it is wanted, and of the params, float32.

    For a param that is None, the gradient means nothing.

    Args:
        rows: dy and x as C reads them.
        moments: what :func:`normalize` kept.
        others: as for :func:`normalize`.
    """
    plan = _plan(switch, rows, params[0], given)
    backward, kept = BackwardLayer(of=plan.layer), []
    layer, start = backward.of, scratch('numbers', plan.backward)
    plan.place(layer, start)
    plan.place_gradients(backward, start)
    c, logits = rows.channels, params[0].numel()
    _place_params(layer, c, params, kept)
    if given is not None:
        _place_given(layer, given, kept)
    d_params = floats(2 * (logits + c))
    first = d_params.data_ptr()
    backward.d_mean_weight = first
    backward.d_var_weight = first + 4 * logits
    backward.d_weight = first + 8 * logits
    backward.d_bias = first + 8 * logits + 4 * c
    function = function_address('switch_backward')
    gate = function_address('switch_forward') if relu else None
    d_x = driver.backward(rows, moments, function, backward, gate, wanted)
    parts = list(d_params.split_with_sizes((logits, logits, c, c)))
    if params[0].dim() > 1:
        parts[:2] = (d.view(params[0].shape) for d in parts[:2])
    return d_x, parts


class _Plan:
    """A layer's settings as C reads them, and how its scratch is divided.

    Attributes:
        layer: without addresses; to be copied.
        forward, backward: doubles of scratch.
    """

    def __init__(
        self,
        switch: Switch,
        n: int,
        c: int,
        size: int,
        shape: tuple[int, ...],
        given: bool,
        threads: int,
    ) -> None:
        check_sizes(switch, c, shape)
        k, logits = len(switch.statistics), math.prod(shape)
        places = {s: i for i, s in enumerate(switch.statistics)}
        groups = switch.num_groups if 'gn' in places else 1
        self.layer = Layer(
            samples=n,
            channels=c,
            count=k,
            ratio_groups=logits // k,
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
        sizes = dict(
            ratios=2 * logits,
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
        self.offsets, total = {}, 0
        for name, count in sizes.items():
            self.offsets[name] = total * _BYTES
            total += count
        self.forward, self.backward = self.offsets['ln_grad'] // _BYTES, total

    def place(self, layer: Layer, start: int) -> None:
        """Write the addresses that both ways need."""
        at = self.offsets
        layer.ratios = start
        layer.by_channel = start + at['by_channel']
        layer.ln_pool = start + at['ln_pool']
        layer.gn_pool = start + at['gn_pool']
        layer.bn_pool = start + at['bn_pool']

    def place_gradients(self, backward: BackwardLayer, start: int) -> None:
        """Write the addresses that only backward needs."""
        at, layer = self.offsets, backward.of
        layer.ln_grad = start + at['ln_grad']
        layer.gn_grad = start + at['gn_grad']
        layer.bn_grad = start + at['bn_grad']
        backward.grads = start + at['grads']
        backward.segments = start + at['segments']


def _plan(
    switch: Switch, rows: Rows, mean_weight: Tensor, given: Tensor | None
) -> _Plan:
    _, n, c, size, _ = rows.x
    shape = tuple(mean_weight.shape)
    return _made_plan(
        *(switch, n, c, size, shape, given is not None, thread_count())
    )


_made_plan = functools.lru_cache(maxsize=512)(_Plan)


def _place_given(layer: Layer, given: Tensor, kept: list[Tensor]) -> None:
    shape = 2, 1, layer.channels
    layer.bn_pool = checked_address(
        given, torch.float64, shape, 'what is given', kept
    )


def _place_params(
    layer: Layer, c: int, params: Params, kept: list[Tensor]
) -> None:
    """Write the addresses of parameters, having looked at each."""
    mean_weight, var_weight, weight, bias = params
    of, dtype = checked_address, torch.float32
    logits = mean_weight.shape
    layer.mean_weight = of(mean_weight, dtype, logits, 'mean_weight', kept)
    layer.var_weight = of(var_weight, dtype, logits, 'var_weight', kept)
    if weight is not None:
        layer.weight = of(weight, dtype, (c,), 'weight', kept)
    if bias is not None:
        layer.bias = of(bias, dtype, (c,), 'bias', kept)
