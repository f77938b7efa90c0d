# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import pytest
import torch

from sn_mm.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
)

GAMMA, ALPHA = 2.0, 0.25
LOGITS = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 1.5]])
TARGET = torch.tensor([1, 0, 2])  # the last one is background


def by_hand(weight=(1.0, 1.0)):
    """-alpha_t (1 - p_t)^gamma log(p_t), element by element."""
    rows = []
    for logits, target in zip(LOGITS.double(), TARGET):
        row = []
        for c, x in enumerate(logits):
            p = torch.sigmoid(x)
            is_hit = c == int(target)
            p = p if is_hit else 1 - p
            alpha = ALPHA if is_hit else 1 - ALPHA
            own = weight[int(target)] if int(target) < 2 else 1.0
            row.append(-own * alpha * (1 - p) ** GAMMA * p.log())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize('weight', [(), (0.5, 3.0)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_each_element(weight, dtype):
    output = torch.empty(3, 2, dtype=dtype)
    sigmoid_focal_loss_forward(
        LOGITS.to(dtype), TARGET, torch.tensor(weight), output, GAMMA, ALPHA
    )
    want = by_hand(weight or (1.0, 1.0))
    torch.testing.assert_close(output.double(), want, rtol=1e-5, atol=1e-7)


def test_derivatives_are_differences():
    x, step = LOGITS.double(), 1e-6
    sides = []
    for sign in (1, -1):
        out = torch.empty_like(x)
        sigmoid_focal_loss_forward(
            x + sign * step, TARGET, torch.empty(0), out, GAMMA, ALPHA
        )
        sides.append(out)
    got = torch.empty_like(x)
    sigmoid_focal_loss_backward(x, TARGET, torch.empty(0), got, GAMMA, ALPHA)
    want = (sides[0] - sides[1]) / (2 * step)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
