# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Running statistics: in C, and in PyTorch's operations."""

import pytest
import torch
from mmcv.cnn import build_norm_layer

from sn_mm.functional.running import update_running
from tests.utils import relative_error

CHANNELS = 5


def buffers(dtype):
    gen = torch.Generator().manual_seed(0)
    mean, var = torch.rand(2, CHANNELS, generator=gen).to(dtype)
    return mean, var, torch.tensor(3)


def batches(positions=None):
    gen = torch.Generator().manual_seed(1)
    pooled = torch.rand(3, 1, CHANNELS, dtype=torch.double, generator=gen)
    if positions is None:
        return pooled[:2]
    pooled[2] = positions
    return pooled


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('momentum', [0.1, 1, None])
@pytest.mark.parametrize('positions', [None, 12.0, 0.0])
def test_update_running(positions, momentum, dtype):
    mean, var, count = buffers(dtype)
    pooled = batches(positions)
    seen = positions != 0
    part = seen * (1 / (3 + seen) if momentum is None else momentum)
    want = [
        old + part * (new - old)
        for old, new in zip(torch.stack([mean, var]).double(), pooled[:2, 0])
    ]
    update_running(mean, var, count, pooled, momentum)
    torch.testing.assert_close(mean, want[0].to(dtype))
    torch.testing.assert_close(var, want[1].to(dtype))
    assert count == 3 + seen


@pytest.mark.parametrize('value', [float('inf'), float('nan')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('momentum', [0.1, 1.0, None])
@pytest.mark.parametrize('row', [0, 1])
def test_a_batch_that_is_not_finite_does_not_count(
    row, momentum, dtype, value
):
    own, before = buffers(dtype), buffers(dtype)
    pooled = batches()
    pooled[row, 0, 2] = value
    update_running(*own, pooled, momentum)
    for t, old in zip(own, before):
        assert torch.equal(t, old)


@pytest.mark.parametrize('second', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    'kind', ['SN', 'SSN', 'AN', 'BHN', 'EN', 'IEBN', 'BGN', 'DN']
)
def test_a_backward_takes_the_statistics_of_its_forward(kind, dtype, second):
    """Even where the layer moved them since."""

    def gradients(moves):
        torch.manual_seed(0)
        layer = build_norm_layer(dict(type=kind), 32)[1].to(dtype)
        for buffer in (layer.running_mean, layer.running_var):
            buffer.uniform_(0.5, 2)
        x = torch.randn(3, 32, 4, 5, dtype=dtype, requires_grad=True)
        y = layer.eval()(x)
        if moves:
            layer.train()(3 * torch.randn_like(x))
        params = [p for p in layer.parameters() if p.requires_grad]
        return torch.autograd.grad(
            y, [x, *params], y.detach(), create_graph=second, allow_unused=True
        )

    for moved, own in zip(gradients(True), gradients(False)):
        assert (moved is None) is (own is None)
        assert own is None or relative_error(moved, own) < 1e-6
