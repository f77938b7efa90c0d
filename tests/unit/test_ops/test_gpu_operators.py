# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Operators that mmcv compiles for GPUs only, against plain references."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops.focal_loss import sigmoid_focal_loss
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

import sn_mm.ops
from tests.unit.test_ops.cases import features
from tests.utils import relative_error


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    for name in ('focal_loss', 'multi_scale_deform_attn'):
        module = pytest.importorskip(f'mmcv.ops.{name}')
        monkeypatch.setattr(module, 'ext_module', sn_mm.ops)


def focal_loss_reference(x, target, gamma, alpha, weight):
    """-alpha_t (1 - p_t)^gamma log(p_t), times the target class's weight."""
    x = x.double()
    onehot = F.one_hot(target, x.shape[1] + 1)[:, :-1].double()
    p = x.sigmoid()
    p_t = onehot * p + (1 - onehot) * (1 - p)
    alpha_t = onehot * alpha + (1 - onehot) * (1 - alpha)
    loss = -alpha_t * (1 - p_t) ** gamma * p_t.log()
    if weight is not None:
        weight = torch.cat((weight.double(), torch.ones(1).double()))
        loss = loss * weight[target][:, None]
    return loss


@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
@pytest.mark.parametrize('weighted', [False, True])
def test_focal_loss(reduction, weighted):
    x = (3 * features(1, 7, 5)).requires_grad_()
    target = torch.tensor([0, 4, 5, 2, 5, 1, 3])  # 5 is background
    weight = features(2, 5).abs() if weighted else None
    got = sigmoid_focal_loss(x, target, 1.5, 0.3, weight, reduction)
    want = focal_loss_reference(x, target, 1.5, 0.3, weight)
    if reduction != 'none':
        want = want.sum() / (len(x) if reduction == 'mean' else 1)
    assert relative_error(got, want) < 1e-6
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (got, want)]
    assert relative_error(*grads) < 1e-6


def test_focal_loss_of_confident_logits_is_finite():
    x = torch.tensor([[-200.0, 200.0], [200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(x, torch.tensor([0, 0]), 2.0, 0.25, None, 'sum')
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_deformable_attention(dtype):
    sizes = [(5, 4), (3, 2), (1, 1)]
    shapes = torch.tensor(sizes)
    starts = torch.tensor([0, 20, 26])
    value = features(1, 2, 27, 3, 4)
    where = 1.4 * features(2, 2, 6, 3, 3, 2, 2).sigmoid() - 0.2
    weights = features(3, 2, 6, 3, 6).softmax(-1).view(2, 6, 3, 3, 2)
    dy = features(4, 2, 6, 12)
    inputs = [t.to(dtype).requires_grad_() for t in (value, where, weights)]
    y = MultiScaleDeformableAttnFunction.apply(
        inputs[0], shapes, starts, *inputs[1:], 64
    )
    y.backward(dy.to(dtype))
    exact = [t.detach().double().requires_grad_() for t in inputs]
    want = multi_scale_deformable_attn_pytorch(exact[0], shapes, *exact[1:])
    want.backward(dy.to(dtype).double())
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    assert y.dtype == dtype
    assert relative_error(y, want) < tolerance
    for got, to in zip(inputs, exact):
        assert relative_error(got.grad, to.grad) < tolerance
