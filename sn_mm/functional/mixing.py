# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Step 2 of a normalizer: from instance moments to normalizing moments.

A mixing sees N x C numbers only. Whatever it computes costs little next to a
pass over x, and :func:`sn_mm.functional.normalize` does the rest: a new
normalizer is a new mixing.
"""
from __future__ import annotations

import torch
from torch import Tensor

State = tuple[Tensor, ...]


class Mixing:
    """Base of all mixings.

    A subclass implements :meth:`mix`, and :meth:`collect` if running buffers
    follow its batch statistics. The gradient is autograd's through both,
    unless the subclass brings a cheaper :meth:`backward`.
    """

    def collect(self, m: Tensor, v: Tensor, size: int) -> State:
        """Statistics over the batch: the only place that may communicate.

        Args:
            m, v: (N, C) means and biased variances of the (n, c) rows; N may
                be 0.
            size: S, the number of positions in a row.

        Returns:
            Tensors for :meth:`mix`; the caller may put them into buffers.
        """
        return ()

    def mix(self, m: Tensor, v: Tensor, size: int, state: State,
            *params: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance to normalize with, broadcastable to (N, C).

        Args:
            m, v, size: as in :meth:`collect`.
            state: what :meth:`collect` returned.
            params: learned parameters.
        """
        raise NotImplementedError

    def backward(self, m: Tensor, v: Tensor, size: int, state: State,
                 params: tuple[Tensor, ...], d_mu: Tensor,
                 d_var: Tensor) -> tuple[Tensor, ...]:
        """Vector-Jacobian product of collect and mix.

        Args:
            d_mu, d_var: (N, C) gradients of the loss with respect to the
                outputs of :meth:`mix`.

        Returns:
            (d_m, d_v, *d_params).
        """
        inputs = [t.detach().requires_grad_() for t in (m, v, *params)]
        with torch.enable_grad():
            rows, rest = inputs[:2], inputs[2:]
            state = self.collect(*rows, size)
            mu, var = self.mix(*rows, size, state, *rest)
            outputs = (mu.expand_as(m), var.expand_as(m))
        grads = torch.autograd.grad(
            outputs, inputs, (d_mu, d_var), allow_unused=True)
        return tuple(
            torch.zeros_like(t) if g is None else g
            for t, g in zip(inputs, grads))
