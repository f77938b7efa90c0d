# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Step 2 of a normalizer: from instance moments to normalizing moments.

A mixing sees N x C numbers only. Whatever it computes costs little next to a
pass over x, and :func:`sn_mm.functional.normalize` does the rest: a new
normalizer is a new mixing.

Moments are stacked: ``moments[0]`` are means, ``moments[1]`` biased
variances, so that one small operation serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = tuple[Tensor, ...]


class Mixing:
    """Base of all mixings.

    A subclass implements :meth:`mix`, and :meth:`collect` if something is
    shared with running buffers or other processes. The gradient is
    autograd's through both, unless the subclass brings a cheaper
    :meth:`backward`.
    """

    def collect(self, moments: Tensor, size: int) -> State:
        """Pooled statistics: the only place that may communicate.

        Args:
            moments: (2, N, C), of the (n, c) rows; N may be 0.
            size: S, the number of positions in a row.

        Returns:
            Tensors for :meth:`mix` and :meth:`backward`, which are small
            beside ``moments``; the caller may put them into buffers.
        """
        return ()

    def mix(
        self, moments: Tensor, size: int, state: State, *params: Tensor
    ) -> Tensor:
        """Moments to normalize with, broadcastable to (2, N, C).

        Args:
            moments, size: as in :meth:`collect`.
            state: what :meth:`collect` returned.
            params: learned parameters.
        """
        raise NotImplementedError

    def backward(
        self,
        moments: Tensor,
        size: int,
        state: State,
        params: tuple[Tensor, ...],
        d_mixed: Tensor,
    ) -> tuple[Tensor, ...]:
        """Vector-Jacobian product of collect and mix.

        Args:
            d_mixed: (2, N, C), the gradient of the loss with respect to the
                output of :meth:`mix`.

        Returns:
            (d_moments, *d_params).
        """
        inputs = [t.detach().requires_grad_() for t in (moments, *params)]
        with torch.enable_grad():
            state = self.collect(inputs[0], size)
            mixed = self.mix(inputs[0], size, state, *inputs[1:])
            mixed = mixed.expand_as(moments)
        grads = torch.autograd.grad(mixed, inputs, d_mixed, allow_unused=True)
        return tuple(
            torch.zeros_like(t) if g is None else g
            for t, g in zip(inputs, grads)
        )
