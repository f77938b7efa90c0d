# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Switchable Normalization on a CPU in one call of C each way.

The sweeps' driver (native/driver.c) with the numbers of switch.c in between:
for one process, where nothing has to be exchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..native import driver
from ..native.sweeps import Rows, thread_count
from ..native.tensors import doubles
from . import switch_native
from .switch_layer import Params, Plan, place_batch, place_running, plan
from .switch_native import function_address
from .switch_settings import Switch


def why_not() -> str | None:
    """Why this is not to be had; None where it is."""
    return switch_native.why_not() or driver.why_not()


def normalize(
    switch: Switch,
    rows: Rows,
    params: Params,
    given: tuple[Tensor, Tensor] | None,
    keep: bool,
    relu: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The output, and what of x is worth keeping.

    Args:
        switch: the layer.
        rows: x as C reads it.
        params: mean_weight, var_weight, weight and bias, see
            :func:`sn_mm.kernels.fused.switch_native.forward`.
        given: mean and variance (C,) in place of the batch's for 'bn'.
        keep: return the moments of x too, unless with ``given``. Without
            them, where nothing is pooled over the batch, samples are done
            one after the other, while they are in the cache.
        relu: max(y, 0).

    Returns:
        y; the moments (2, N, C) or None; the moments of 'bn', the batch's or
        those given, (2, 1, C), float64.
    """
    kept: list[Tensor] = []
    planned = _plan(switch, rows, params, given is not None)
    layer = planned.forward(params, kept)
    batch = doubles(2, 1, rows.channels)
    layer.bn_pool = batch.data_ptr()
    if given is not None:
        if given[0].dtype is given[1].dtype is torch.float32:
            place_running(layer, given, kept)
        else:  # float32 may not hold them
            batch = switch_native.stacked(given, rows.channels)
            place_batch(layer, batch, kept)
    elif keep or 'bn' in switch.statistics:
        numbers = function_address('switch_forward')
        y, moments = driver.forward(rows, numbers, layer, keep, relu)
        return y, moments, batch
    common = function_address('switch_common')
    numbers = function_address('switch_forward_some')
    y = driver.forward_by_sample(rows, common, numbers, layer, relu)
    return y, None, batch


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
        given: the moments of 'bn' that it returned, if they were given.
        others: as for :func:`normalize`.
    """
    kept: list[Tensor] = []
    planned = _plan(switch, rows, params, given is not None)
    numbers, d_params = planned.backward(params, kept)
    if given is not None:
        place_batch(numbers.of, given, kept)
    function = function_address('switch_backward')
    gate = function_address('switch_forward') if relu else None
    d_x = driver.backward(rows, moments, function, numbers, gate, wanted)
    return d_x, d_params


def _plan(switch: Switch, rows: Rows, params: Params, given: bool) -> Plan:
    _, n, c, size, _ = rows.x
    logits = tuple(params[0].shape)
    return plan(switch, n, c, size, logits, given, thread_count())
