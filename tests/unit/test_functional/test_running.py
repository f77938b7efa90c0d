# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Running statistics: in C, and in PyTorch's operations."""

import pytest
import torch

from sn_mm.functional.engines import native
from sn_mm.functional.engines.library import library
from sn_mm.functional.running import move

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
def test_move(positions, momentum, dtype):
    mean, var, count = buffers(dtype)
    pooled = batches(positions)
    seen = positions != 0
    part = seen * (1 / (3 + seen) if momentum is None else momentum)
    want = [
        old + part * (new - old)
        for old, new in zip(torch.stack([mean, var]).double(), pooled[:2, 0])
    ]
    move(mean, var, count, pooled, momentum)
    torch.testing.assert_close(mean, want[0].to(dtype))
    torch.testing.assert_close(var, want[1].to(dtype))
    assert count == 3 + seen


@pytest.mark.skipif(library() is None, reason='needs a C compiler')
def test_c_takes_ordinary_buffers_only():
    pooled, ordinary = batches(), buffers(torch.float32)
    assert native.moves(*ordinary, pooled, 0.1)
    assert not native.moves(*ordinary, pooled, None)
    assert not native.moves(*ordinary, pooled.float(), 0.1)
    assert not native.moves(*buffers(torch.float64), pooled, 0.1)
    strided = torch.zeros(CHANNELS, 2)[:, 0]
    assert not native.moves(strided, *ordinary[1:], pooled, 0.1)
