# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The rule of HyperNormalization, and the LSTM that makes its affine pair.

Diao, Yu, Li, Zheng, "HyperNormalization" (a poster: no paper, no code). The
cell is that of DIANet (Huang et al., AAAI 2020, arXiv 1905.10671), which has
the same two bottlenecks and is what the poster's numbers of parameters fit.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import linear

from . import statistics as pools
from .statistics import Moments
from .traced import inverse_root

# W0, its bias, W1, its bias of a bottleneck W1 relu(W0 u)
Bottleneck = tuple[Tensor, Tensor, Tensor, Tensor]


class HyperRule:
    """Batch normalization whose affine pair is an LSTM's state.

    h, c = LSTM(m, h', c') with the instance means m of the norm's own input
    and the state h', c' that the norm before left;
    y = h (x - mean) / sqrt(var + eps) + c, with the batch's mean and var.

    Args:
        eps: added to the variance, inside the root.
        running: mean and variance (C,) to normalize with instead.
        process_group: the batch is that of all its processes; the LSTM's
            input is each sample's own.
    """

    def __init__(
        self,
        eps: float = 1e-5,
        *,
        running: Moments | None = None,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        self.eps = eps
        self.running = running
        self.process_group = process_group

    def __call__(
        self,
        m: Tensor,
        v: Tensor,
        size: int,
        h: Tensor | None,
        c: Tensor | None,
        *lstm: Tensor,
    ) -> tuple[Tensor, ...]:
        """See :func:`sn_mm.functional.normalize_rows`.

        Args:
            m, v: (N, C).
            h, c: (N, C), or None for zeros.
            lstm: the two bottlenecks of :func:`trimmed_lstm`, one after the
                other.

        Returns:
            centre, scale, bias; h and c (N, C), differentiable; and, where
            the batch was pooled, what
            :func:`.statistics.batch_extra` makes of it.
        """
        mean, var, extras = pools.batch_or_running(
            m, v, size, self.running, self.process_group
        )
        weights = [t.to(m.dtype) for t in lstm]
        state = (
            torch.zeros_like(m) if t is None else t.to(m.dtype) for t in (h, c)
        )
        h, c = trimmed_lstm(m, *state, weights[:4], weights[4:])
        return mean, h * inverse_root(var + self.eps), c, h, c, *extras


def trimmed_lstm(
    u: Tensor, h: Tensor, c: Tensor, of_input: Bottleneck, of_state: Bottleneck
) -> tuple[Tensor, Tensor]:
    """One step of DIANet's LSTM.

    Gates i, f, g, o are the sum of a bottleneck of u and one of h;
    c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) sigmoid(c'): the
    output's tanh is a sigmoid, so that h' lies between 0 and 1.

    Args:
        u: input, (N, C).
        h, c: state, (N, C).
        of_input, of_state: W0 (B, C), its bias (B,), W1 (4 C, B) and its
            bias (4 C,).

    Returns:
        h' and c', (N, C).
    """
    gates = bottleneck(u, *of_input) + bottleneck(h, *of_state)
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.sigmoid(c), c


def bottleneck(
    u: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor
) -> Tensor:
    """W1 relu(W0 u + b0) + b1, of rows u (N, C)."""
    return linear(torch.relu(linear(u, w0, b0)), w1, b1)
