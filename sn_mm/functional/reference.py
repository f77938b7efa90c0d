# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Normalizers as their papers write them: the tests' oracles.

In plain operations on x, over the axes that define each moment; autograd does
the rest. Slow, and several copies of x: oracles, not layers. Feed float64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def switchable_norm_reference(
    x: Tensor,
    mean_weight: Tensor,
    var_weight: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    statistics: tuple[str, ...] = ('in', 'ln', 'bn'),
    unbiased: bool = False,
    num_groups: int = 32,
    eps: float = 1e-5,
) -> Tensor:
    """SN by the definitions of its statistics (ICLR paper, Eq. 2, 3 and 5).

    Every moment is taken directly over the axes that define it; autograd
    does the rest. Slow, and keeps several copies of x: an oracle, not a
    layer. Feed it float64.

    Args:
        x: (N, C, *spatial), N and every extent at least 1.
        mean_weight, var_weight: (K,) or (G, K) ratio logits.
        weight, bias: (C,) or None.
        running_mean, running_var: (C,); used for BN instead of the batch
            when given.
        statistics, unbiased, num_groups, eps: as for
            :class:`sn_mm.layers.SN2d`.

    Returns:
        y, shaped like x.
    """
    flat = x.flatten(2)
    moments = [
        _moments(name, flat, unbiased, num_groups, running_mean, running_var)
        for name in statistics
    ]
    mu, var = (
        sum(r * t[i] for r, t in zip(_ratios(w, flat, statistics), moments))
        for i, w in enumerate((mean_weight, var_weight))
    )
    y = (flat - mu) / torch.sqrt(var + eps)
    return _with_affine(y, weight, bias).view(x.shape)


def _ratios(
    logits: Tensor, x: Tensor, statistics: tuple[str, ...]
) -> list[Tensor]:
    """K factors (1, C, 1); 'in' gets none where a row has one position."""
    keep = [
        k
        for k, name in enumerate(statistics)
        if name != 'in' or x.shape[-1] > 1 or len(statistics) == 1
    ]
    logits = logits.reshape(-1, len(statistics))
    soft = logits[:, keep].softmax(-1)
    ratios = torch.zeros_like(logits).index_copy(1, torch.tensor(keep), soft)
    ratios = ratios.repeat_interleave(x.shape[1] // len(logits), dim=0)
    return [r.view(1, -1, 1) for r in ratios.unbind(1)]


def _moments(
    name: str,
    x: Tensor,
    unbiased: bool,
    num_groups: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if name == 'bn' and running_mean is not None:
        return running_mean.view(1, -1, 1), running_var.view(1, -1, 1)
    if name == 'gn':
        grouped = x.reshape(x.shape[0], num_groups, -1)
    else:
        grouped = x
    dims = {'in': 2, 'ln': (1, 2), 'bn': (0, 2), 'gn': 2}[name]
    mean = grouped.mean(dims, keepdim=True)
    var = (grouped - mean).square().mean(dims, keepdim=True)
    size = x.shape[-1]
    if unbiased and size > 1:
        # The public code's convention: only the part of the variance that
        # lies within (n, c) rows is corrected.
        rows = x.var(-1, unbiased=False, keepdim=True) / (size - 1)
        if name == 'gn':
            rows = rows.view(x.shape[0], num_groups, -1)
        var = var + rows.mean(dims, keepdim=True)
    if name == 'gn':
        mean, var = (
            t.repeat_interleave(x.shape[1] // num_groups, dim=1)
            for t in (mean, var)
        )
    return mean, var


def dynamic_norm_reference(
    x: Tensor,
    gates_c: Tensor,
    gates_n: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    whole_batch: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Dynamic Normalization: mean = V M U^T, second moment = V Q U^T.

    Args:
        x: (N, C, *spatial).
        gates_c, gates_n: numbers from 0 to 1, the outermost factor first:
            the block of a factor is (1 - gate) I + gate J, J being equal
            shares.
        weight, bias: (C,) or None.
        running_mean, running_var: (C,), in place of the batch's moments.
        whole_batch, eps: see :class:`sn_mm.functional.dynamic.DynamicRule`.

    Returns:
        y, shaped like x.
    """
    flat = x.flatten(2)
    first, second = flat.mean(2), flat.square().mean(2)
    right = _kronecker(gates_c, x.shape[1], x)
    if running_mean is None:
        left = _kronecker(gates_n, x.shape[0], x, whole_batch)
        pooled = [left @ t @ right.T for t in (first, second)]
    else:
        given = running_mean, running_var + running_mean.square()
        pooled = [
            ((1 - gates_n) * own + gates_n * other) @ right.T
            for own, other in zip((first, second), given)
        ]
    mean, var = pooled[0], pooled[1] - pooled[0].square()
    y = (flat - mean[..., None]) / torch.sqrt(var + eps)[..., None]
    return _with_affine(y, weight, bias).view(x.shape)


def exemplar_norm_reference(
    x: Tensor,
    embed_weight: Tensor,
    ratio_weight: Tensor,
    ratio_bias: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    statistics: tuple[str, ...] = ('in', 'ln', 'bn'),
    num_groups: int = 32,
    eps: float = 1e-5,
) -> Tensor:
    """Exemplar Normalization: normalizers' outputs, mixed for each sample.

    Args:
        x: (N, C, *spatial).
        embed_weight, ratio_weight, ratio_bias: (D, C), (K, D) and (K,).
        weight, bias: (K, C) or None.
        running_mean, running_var: (C,), in place of the batch's moments.
        statistics, num_groups, eps: see
            :class:`sn_mm.functional.exemplar.ExemplarRule`.

    Returns:
        y, shaped like x.
    """
    flat = x.flatten(2)
    hidden = torch.relu(flat.mean(2) @ embed_weight.T)
    logits = hidden @ ratio_weight.T + ratio_bias
    if flat.shape[2] == 1 and 'in' in statistics and len(statistics) > 1:
        keep = [name != 'in' for name in statistics]
        exact = logits.exp() * torch.tensor(keep)
        ratios = exact / exact.sum(1, keepdim=True)
    else:
        ratios = logits.softmax(1)
    y = torch.zeros_like(flat)
    for k, name in enumerate(statistics):
        mean, var = _moments(
            name, flat, False, num_groups, running_mean, running_var
        )
        own = _with_affine(
            (flat - mean) / torch.sqrt(var + eps),
            None if weight is None else weight[k],
            None if bias is None else bias[k],
        )
        y = y + ratios[:, k, None, None] * own
    return y.view(x.shape)


def population_norm_reference(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Normalization with given moments, which are constants.

    Args:
        x: (N, C, *spatial).
        mean, var, weight, bias: (C,), or None of the last two.

    Returns:
        y, shaped like x.
    """
    flat = x.flatten(2)
    std = torch.sqrt(var.detach() + eps)
    y = (flat - mean.detach()[:, None]) / std[:, None]
    return _with_affine(y, weight, bias).view(x.shape)


def batch_renorm_reference(
    x: Tensor,
    running_mean: Tensor,
    running_std: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    r_max: float = 1.5,
    d_max: float = 0.5,
    evaluates: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """Batch Renormalization (Ioffe, 2017, Algorithm 1), eps inside the root.

    Args:
        x: (N, C, *spatial), N and every extent at least 1.
        running_mean, running_std: (C,).
        weight, bias: (C,) or None.
        r_max, d_max: limits of r and d.
        evaluates: normalize with the running statistics.
        eps: added to the batch's variance.

    Returns:
        y, shaped like x.
    """
    flat = x.flatten(2)
    mean, std = running_mean[:, None], running_std[:, None]
    if evaluates:
        y = (flat - mean) / std
    else:
        mu, var = _mean_and_var(flat, (0, 2))
        sigma = torch.sqrt(var + eps)
        r = (sigma / std).detach().clamp(1 / r_max, r_max)
        d = ((mu - mean) / std).detach().clamp(-d_max, d_max)
        y = (flat - mu) / sigma * r + d
    return _with_affine(y, weight, bias).view(x.shape)


def instance_batch_norm_reference(
    x: Tensor,
    instance: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    instance_first: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """IBN (Pan et al., 2018): two norms, concatenated.

    Args:
        x: (N, C, *spatial), N and every extent at least 1.
        instance: number of channels with instance norm: the first ones, or
            the last where ``instance_first`` is False.
        weight, bias: (C,) or None, in the order of the channels.
        running_mean, running_var: (C - instance,); used for BN instead of
            the batch when given.
        eps: added to variances.

    Returns:
        y, shaped like x.
    """
    flat = x.flatten(2)
    border = instance if instance_first else x.shape[1] - instance
    parts = [flat[:, :border], flat[:, border:]]
    if not instance_first:
        parts.reverse()
    mean, var = _mean_and_var(parts[1], (0, 2))
    if running_mean is not None:
        mean, var = running_mean[:, None], running_var[:, None]
    parts = [
        (part - mu) / torch.sqrt(spread + eps)
        for part, (mu, spread) in zip(
            parts, (_mean_and_var(parts[0], 2), (mean, var))
        )
    ]
    if not instance_first:
        parts.reverse()
    return _with_affine(torch.cat(parts, 1), weight, bias).view(x.shape)


def _mean_and_var(x: Tensor, dims) -> tuple[Tensor, Tensor]:
    """Over some axes, which stay with extent 1; the variance biased."""
    mean = x.mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def _kronecker(
    gates: Tensor, number: int, like: Tensor, whole: bool = False
) -> Tensor:
    """(number, number), a block for each gate, the first one outermost."""
    product = torch.ones(1, 1, dtype=like.dtype, device=like.device)
    for gate in gates:
        size = 2 if number % 2 == 0 and not whole else number
        number //= size
        eye = torch.eye(size, dtype=like.dtype, device=like.device)
        shares = torch.full_like(eye, 1 / size)
        product = torch.kron(product, (1 - gate) * eye + gate * shares)
    return product


def _with_affine(y: Tensor, weight: Tensor | None, bias: Tensor | None):
    if weight is not None:
        y = y * weight[:, None]
    return y if bias is None else y + bias[:, None]


def kalman_norm_reference(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    predicted: tuple[Tensor, Tensor] | None = None,
    p: float = 0.05,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """KN of input (N, C, *spatial), as its public code computes it.

    Args:
        x: N and every extent at least 1.
        weight, bias: (C,) or None.
        running_mean, running_var: (C,); used alone when given.
        predicted: mean and variance (C,); None for a first layer.
        p, eps: as for :class:`sn_mm.layers.KN`.

    Returns:
        y, shaped like x; the mean and the variance (C,) of the layer.
    """
    flat = x.flatten(2)
    mean = flat.mean((0, 2))
    var = (flat - mean[:, None]).square().mean((0, 2))
    if running_mean is not None:
        mean, var = running_mean, running_var
    elif predicted is not None and (predicted[1] / var).mean() < 100:
        shift = (mean - predicted[0]).square()
        mean = p * predicted[0] + (1 - p) * mean
        var = p * predicted[1] + (1 - p) * var + p * (1 - p) * shift
    y = (flat - mean[:, None]) / torch.sqrt(var + eps)[:, None]
    return _with_affine(y, weight, bias).view(x.shape), mean, var


def hyper_norm_reference(
    x: Tensor,
    lstm: dict[str, Tensor],
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    state: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """HyperNormalization: batch norm, scaled and shifted by an LSTM.

    Args:
        x: (N, C, *spatial), N and every extent at least 1.
        lstm: parameters by the names of :class:`sn_mm.layers.BHN`.
        running_mean, running_var: (C,), in place of the batch's moments.
        state: h and c (N, C) of the norm before; None for zeros.
        eps: added to the variance.

    Returns:
        y, shaped like x; h and c (N, C).
    """
    flat = x.flatten(2)
    pooled = flat.mean(2)
    h, c = state or (torch.zeros_like(pooled),) * 2

    def narrowed(u: Tensor, kind: str) -> Tensor:
        inner = u @ lstm[f'weight_{kind}_0'].T + lstm[f'bias_{kind}_0']
        wide = inner.clamp(min=0) @ lstm[f'weight_{kind}_1'].T
        return wide + lstm[f'bias_{kind}_1']

    gates = narrowed(pooled, 'ih') + narrowed(h, 'hh')
    i, f, g, o = gates.unflatten(1, (4, -1)).unbind(1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.sigmoid()
    mean = flat.mean((0, 2))
    var = (flat - mean[:, None]).square().mean((0, 2))
    if running_mean is not None:
        mean, var = running_mean, running_var
    y = (flat - mean[:, None]) / torch.sqrt(var + eps)[:, None]
    return (y * h[..., None] + c[..., None]).view(x.shape), h, c
