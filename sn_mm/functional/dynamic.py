# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of Dynamic Normalization, which learns what to pool.

Luo et al., "Differentiable Dynamic Normalization for Learning Deep
Representation", ICML 2019 (announced as Meta Normalization). Of the paper its
abstract alone was at hand: what is here is after it, unverified. Gates and
their order are those of Zhang et al., "Differentiable Learning-to-Group
Channels via Groupable Convolutional Neural Networks", ICCV 2019.

Instance moments as matrices, means M and second moments Q (N, C), are
averaged over samples and channels alike,

    mean = V M U^T,   second moment = V Q U^T,

with U (C, C) and V (N, N) Kronecker products of one block for each gate: the
identity where it is 0, equal shares where it is 1. IN, BN, LN and GN are
special cases.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from . import statistics
from .statistics import Moments
from .traced import inverse_root


def factors_of(number: int) -> tuple[int, ...]:
    """Sizes of the blocks whose Kronecker product has so many rows.

    As many 2 as divide it, and last, innermost, what is left: (2, 2, 2, 3)
    of 24. Groups that are a power of two then consist of neighbours, as group
    normalization's do.
    """
    sizes = []
    while number % 2 == 0:
        number //= 2
        sizes.append(2)
    return (*sizes, number) if number > 1 else tuple(sizes)


def binary_gates(values: Tensor) -> Tensor:
    """1 where above 0, else 0; the gradient passes straight through."""
    hard = (values > 0).to(values.dtype)
    return hard + values - values.detach()


def pool_by_gates(moments: Moments, gates: Tensor, dim: int) -> Moments:
    """Average moments along an axis in the blocks that gates open.

    By differences from the average, so that a large mean costs no digits.

    Args:
        moments: mean and biased variance, (N, C).
        gates: one for each of :func:`factors_of` the axis, the outermost
            first: 0 leaves rows apart, 1 pools them.
        dim: 0 pools samples, 1 channels.

    Returns:
        Mean and variance (N, C).

    Raises:
        ValueError: for another number of gates.
    """
    mean, var = moments
    sizes = factors_of(mean.shape[dim])
    if len(gates) != len(sizes):
        raise ValueError(
            f'{mean.shape[dim]} rows are {sizes}, so they need {len(sizes)} '
            f'gates, got {len(gates)}'
        )
    shape = mean.shape
    split = (*shape[:dim], *sizes, *shape[dim + 1 :])
    mean, var = mean.reshape(split), var.reshape(split)
    for axis, gate in enumerate(gates.unbind(), dim):
        near = mean.mean(axis, keepdim=True)
        pooled = (var + (mean - near).square()).mean(axis, keepdim=True)
        mean, var = mix_moments(gate, (mean, var), (near, pooled))
    return mean.reshape(shape), var.reshape(shape)


def mix_moments(gate: Tensor, apart: Moments, pooled: Moments) -> Moments:
    """Moments of a mixture, with share ``gate`` of the pooled ones.

    Their first and second moments are mixed. Between gates of 0 and 1 that
    adds to the variance, which is 0 at both but has a gradient.
    """
    away = pooled[0] - apart[0]
    mean = apart[0] + gate * away
    var = apart[1] + gate * (pooled[1] - apart[1])
    return mean, var + gate * (1 - gate) * away.square()


class DynamicRule:
    """Dynamic Normalization with the gates that it is given.

    y = weight (x - mean) / sqrt(var + eps) + bias, of moments pooled by the
    gates.

    Args:
        eps: added to the pooled variance, inside the root.
        whole_batch: there is one gate for the samples, which pools all or
            none, whatever their number. Default: a gate for each factor of
            N.
        running: mean and variance (C,) that ``whole_batch`` takes instead
            of the batch's.
        process_group: the batch of ``whole_batch`` is that of all its
            processes.
    """

    def __init__(
        self,
        eps: float = 1e-5,
        *,
        whole_batch: bool = False,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.eps = eps
        self.whole_batch = whole_batch
        self.running = running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        gates_c: Tensor,
        gates_n: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            gates_c: of the channels, see :func:`pool_by_gates`.
            gates_n: of the samples; (1,) where ``whole_batch``.
            weight, bias: (C,) or None.

        Returns:
            centre, scale, bias; and, where the whole batch was pooled, what
            :func:`.statistics.batch_extra` makes of it.
        """
        gates_c, gates_n = gates_c.to(m.dtype), gates_n.to(m.dtype)
        extras = ()
        if self.whole_batch:
            mean, var, extras = statistics.batch_or_running(
                m, v, size, self.running, self.process_group
            )
            moments = mix_moments(gates_n, (m, v), (mean, var))
        else:
            moments = pool_by_gates((m, v), gates_n, 0)
        mean, var = pool_by_gates(moments, gates_c, 1)
        scale = inverse_root(var + self.eps)
        if weight is not None:
            scale = scale * weight
        if bias is None:
            bias = torch.zeros_like(m[:1])
        return mean, scale, bias, *extras
