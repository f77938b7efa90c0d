# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sigmoid focal loss (Lin et al., Focal Loss, Eq. 5), by element.

mmdet calls it on GPUs; on the CPU it has its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .gradients import fill_gradients


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``output`` with the loss of every element.

    Args:
        input: (N, C), logits of any float type.
        target: (N,), classes; one outside 0 to C - 1 is background.
        weight: (C,), of the target's class (background's is 1), or empty.
        output: like input, filled.
        gamma: exponent of the modulating factor.
        alpha: weight of positives; negatives have 1 - alpha.
    """
    output.copy_(_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fill ``grad_input`` with the derivative of every element's loss."""
    fill_gradients(
        lambda x: _loss(x, target, weight, gamma, alpha),
        (input,),
        torch.ones_like(input),
        (grad_input,),
    )


def _loss(x, target, weight, gamma: float, alpha: float) -> Tensor:
    if x.dtype != torch.float64:
        x = x.float()
    classes = torch.arange(x.shape[1], device=x.device)
    positive = target[:, None] == classes
    signed = torch.where(positive, x, -x)
    share = torch.where(positive, alpha, 1 - alpha)
    loss = -share * torch.sigmoid(-signed) ** gamma * F.logsigmoid(signed)
    if weight.numel():
        loss = loss * F.pad(weight.to(x.dtype), (0, 1), value=1)[
            target.where((target >= 0) & (target < len(classes)), -1)
        ].unsqueeze(1)
    return loss
