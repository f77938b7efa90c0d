# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Gradients of an operator that is a differentiable function.

mmcv calls an operator's forward and backward apart, each without autograd, so
the backward goes through the function once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

import torch
from torch import Tensor


def fill_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    grads: Sequence[Tensor],
) -> None:
    """Fill ``grads`` with the gradients of ``function(*inputs)``.

    Args:
        function: takes the inputs, each of which its output depends on.
        inputs: one or more tensors.
        grad_output: like the output, in any float type.
        grads: like the inputs, filled.
    """
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in inputs]
        output = function(*inputs)
        found = torch.autograd.grad(
            output, inputs, grad_output.to(output.dtype)
        )
    for grad, value in zip(grads, found):
        grad.copy_(value)
