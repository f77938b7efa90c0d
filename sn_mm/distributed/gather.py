# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Moments pooled over the processes of a group, with their gradient.

A rule is called once forward, and again backward for its gradient. What its
gathers brought is recorded the first time and handed to the second call,
which does not communicate: one collective forward, one backward.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .waiting import waiting_for_others

# gloo has all_gather_into_tensor in newer versions of torch only
_WITHOUT_FLAT_GATHER = ('gloo', 'mpi', 'undefined')
_calls = threading.local()


def pool_moments(
    own: Tensor, count: int, process_group: dist.ProcessGroup | None
) -> Tensor:
    """Moments of the union of what all processes have.

    Differentiable any number of times: the gradient of ``own`` is that of
    the sum of all processes' losses. All processes of the group must call
    it, and call backward if one does.

    Args:
        own: (2, C), mean and biased variance of this process's elements;
            anything finite where it has none.
        count: the number of its elements.
        process_group: None is the default group.

    Returns:
        (3, C): mean, biased variance, and the number of all elements.
    """
    replayed = getattr(_calls, 'replayed', None)
    if replayed is not None:
        parts = next(replayed)
    else:
        parts = gather_moments(own.detach(), count, process_group)
        recorded = getattr(_calls, 'recorded', None)
        if recorded is not None:
            recorded.append(parts)
    return _Pool.apply(own, count, process_group, parts)


class recording:
    """A context, and the list of what gathers inside bring.

    A class, since every backward of a rule enters two: generators take longer.
    """

    _name = 'recorded'

    def __init__(self) -> None:
        self._value = []

    def __enter__(self) -> Sequence[Tensor]:
        self._before = getattr(_calls, self._name, None)
        setattr(_calls, self._name, self._value)
        return self._value

    def __exit__(self, *error) -> None:
        setattr(_calls, self._name, self._before)


class replaying(recording):
    """Gathers inside return, in order, what they brought when recorded."""

    _name = 'replayed'

    def __init__(self, brought: Sequence[Tensor]) -> None:
        self._value = iter(brought)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own, count, process_group, parts):
        ctx.save_for_backward(own, parts)
        ctx.count, ctx.process_group = count, process_group
        return merge_parts(parts)

    @staticmethod
    def backward(ctx, d_pooled):
        own, parts = ctx.saved_tensors
        d_mean, d_var = _Sum.apply(d_pooled[:2], ctx.process_group)
        # through this function, so that second derivatives see that the
        # mean is everybody's
        mean, _, total = _Pool.apply(own, ctx.count, ctx.process_group, parts)
        share = ctx.count / total.clamp(min=1)
        d_own = torch.stack(
            [
                share * (d_mean + 2 * (own[0] - mean) * d_var),
                share * d_var,
            ]
        )
        return d_own, None, None, None


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is that sum of theirs."""

    @staticmethod
    def forward(ctx, t, process_group):
        ctx.process_group = process_group
        total = t.clone(memory_format=torch.contiguous_format)
        with waiting_for_others(t.shape[-1]):
            dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx, d_total):
        return _Sum.apply(d_total, ctx.process_group), None


def gather_moments(
    own: Tensor, count: int, group: dist.ProcessGroup | None
) -> Tensor:
    """All processes' moments (2, C) and counts, (world size, 2 C + 1)."""
    return all_gather(
        torch.cat([own.reshape(-1), own.new_full((1,), count)]), group
    )


def merge_parts(parts: Tensor) -> Tensor:
    """(3, C), mean, variance and count of what :func:`gather_moments` got."""
    channels = parts.shape[1] // 2
    mean, var, total = merge_moments(
        *parts.split([channels, channels, 1], dim=1)
    )
    return torch.stack([mean, var, total.expand_as(mean)])


def all_gather(t: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Every process's t (L,), as rows (world size, L), without gradient.

    A gather and no sum: all processes then merge the same numbers in the
    same order and get the same bits.
    """
    out = t.new_empty(dist.get_world_size(group), t.numel())
    with waiting_for_others(t.numel() // 2):
        if dist.get_backend(group) in _WITHOUT_FLAT_GATHER:
            dist.all_gather(list(out.unbind(0)), t.contiguous(), group=group)
        else:  # NCCL would copy a list's tensors one by one
            dist.all_gather_into_tensor(out, t.contiguous(), group=group)
    return out


def merge_moments(
    means: Tensor, variances: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the union of P parts from each part's own.

    Centred (parallel variance), so a large mean costs no digits. Parts of
    count 0 do not matter; if all are, the moments are 0.

    Args:
        means, variances: (P, C), biased.
        counts: (P, 1) numbers of elements.

    Returns:
        mean (C,), var (C,), count ().
    """
    total = counts.sum()
    shares = counts / total.clamp(min=1)
    mean = (shares * means).sum(0)
    var = (shares * (variances + (means - mean).square())).sum(0)
    return mean, var, total
