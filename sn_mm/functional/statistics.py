# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Statistics: whose moments a row can be normalized with.

Each is a differentiable function of the instance moments m and v (N, C),
means and biased variances of the rows, and returns a mean and a variance
that broadcast to (N, C). Moments of larger sets come from those of their rows
(Luo et al., ICLR 2019, Eq. 4) in the form that does not cancel: mean(m), and
mean(v) + var(m).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sn_mm.distributed.gather import pool_moments

Moments = tuple[Tensor, Tensor]


def instance(m: Tensor, v: Tensor) -> Moments:
    """Every row's own moments (instance normalization), (N, C)."""
    return m, v


def layer(m: Tensor, v: Tensor) -> Moments:
    """Moments of a sample (layer normalization), (N, 1)."""
    return _pooled(m, v, 1)


def group(m: Tensor, v: Tensor, num_groups: int) -> Moments:
    """Moments of a sample's channels in groups (group normalization).

    Args:
        num_groups: a divisor of C; groups are of consecutive channels.

    Returns:
        Both (N, C), the same within a group.

    Raises:
        ValueError: if ``num_groups`` does not divide C.
    """
    channels = m.shape[1]
    if channels % num_groups:
        raise ValueError(
            f'num_groups={num_groups} does not divide the {channels} channels'
        )
    width = channels // num_groups
    grouped = (t.reshape(t.shape[0], num_groups, width) for t in (m, v))
    mean, var = _pooled(*grouped, 2)
    return tuple(
        t.expand(-1, -1, width).reshape(-1, channels) for t in (mean, var)
    )


def batch(
    m: Tensor,
    v: Tensor,
    size: int,
    process_group: dist.ProcessGroup | None = None,
) -> Moments:
    """Moments of a channel over all samples (batch normalization), (1, C).

    Args:
        size: S, positions of a row. Processes may have different ones.
        process_group: pool over the samples of all its processes, which may
            hold different numbers of them, none included; all must call.
            Default: the samples of this process.

    Raises:
        ValueError: if this process is not in the group.
    """
    mean, var, _ = batch_and_count(m, v, size, process_group)
    return mean, var


def batch_and_count(
    m: Tensor,
    v: Tensor,
    size: int,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`batch`, and the number of positions in it, if synchronized."""
    samples = m.shape[0]
    count = samples * size
    if isinstance(samples, int) and samples == 0:
        mean = var = m.sum(0, keepdim=True)  # zeros that keep the gradient
    else:
        mean, var = _pooled(m, v, 0)
    if process_group is None:
        return mean, var, None
    processes = dist.get_world_size(process_group)
    if processes < 1:
        raise ValueError(
            'this process is not in the process_group whose batch it is to '
            'take: give it a group that it is in, or None'
        )
    if processes == 1:
        return mean, var, None
    pooled = pool_moments(torch.cat([mean, var]), count, process_group)
    return pooled[:1], pooled[1:2], pooled[2, 0]


def running(m: Tensor, v: Tensor, mean: Tensor, var: Tensor) -> Moments:
    """Given moments (C,), such as running statistics, (1, C)."""
    return mean.to(m.dtype)[None], var.to(v.dtype)[None]


def batch_or_running(
    m: Tensor,
    v: Tensor,
    size: int,
    given: Moments | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The batch's moments, or those given in their place.

    Args:
        size, process_group: see :func:`batch`.
        given: running mean and variance (C,), or None.

    Returns:
        mean and variance (1, C); and what a rule returns behind its centre,
        scale and bias: of a batch, :func:`batch_extra`.
    """
    if given is not None:
        return *running(m, v, *given), ()
    mean, var, count = batch_and_count(m, v, size, process_group)
    return mean, var, (batch_extra(mean, var, count),)


def several(
    names: Sequence[str],
    m: Tensor,
    v: Tensor,
    size: int,
    *,
    num_groups: int = 32,
    given: Moments | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> tuple[list[Moments], tuple[Tensor, ...]]:
    """Moments of each of several statistics.

    Args:
        names: out of 'in', 'ln', 'bn', 'gn'.
        num_groups: of 'gn'.
        size, given, process_group: of 'bn', see :func:`batch_or_running`.

    Returns:
        mean and variance for each name, and :func:`batch_extra` of a batch
        that was pooled.
    """
    moments, extras = [], ()
    for name in names:
        if name == 'in':
            moments.append(instance(m, v))
        elif name == 'ln':
            moments.append(layer(m, v))
        elif name == 'gn':
            moments.append(group(m, v, num_groups))
        else:
            *pooled, extras = batch_or_running(
                m, v, size, given, process_group
            )
            moments.append(tuple(pooled))
    return moments, extras


def batch_extra(mean: Tensor, var: Tensor, count: Tensor | None) -> Tensor:
    """What a layer moves its running statistics towards, detached.

    Args:
        mean, var: (1, C).
        count: () the number of positions, where only it tells whether any
            process had some.

    Returns:
        (2, 1, C), mean and variance; or (3, 1, C), with the count.
    """
    rows = [mean, var]
    if count is not None:
        rows.append(count.expand_as(mean))
    return torch.stack(rows).detach()


def _pooled(m: Tensor, v: Tensor, dim: int) -> Moments:
    mean = m.mean(dim, keepdim=True)
    return mean, (v + (m - mean).square()).mean(dim, keepdim=True)
