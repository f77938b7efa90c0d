# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The same again, and nothing left behind: determinism and memory."""

import gc
import resource

import pytest
import torch

from sn_mm import SSN, SN2d, SN3d
from tests.utils import randomize, run


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize(
    'cls, shape',
    [
        (SN2d, (2, 64, 40, 30)),
        (SN2d, (40, 32, 7, 7)),
        (SSN, (2, 8, 16, 16)),
        (SN3d, (2, 8, 4, 9, 9)),
    ],
)
def test_deterministic(deterministic, cls, shape, threads):
    gen = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=gen) for _ in range(2))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = [run(randomize(cls(shape[1])), x, dy) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


def live_tensors() -> int:
    gc.collect()
    return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())


def resident_peak() -> int:
    """KiB, the largest so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_does_not_grow():
    """Thousands of training steps at changing sizes."""
    layer = SN2d(16)
    gen = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (60, 3), generator=gen).tolist()

    def steps(count: int) -> None:
        for i in range(count):
            n, h, w = sizes[i % len(sizes)]
            x = torch.randn(1 + n % 4, 16, h, w, requires_grad=True)
            layer(x).square().mean().backward()
            layer.zero_grad()

    steps(600)
    tensors, peak = live_tensors(), resident_peak()
    steps(3000)
    assert live_tensors() <= tensors
    # a leak of one batch a step would be 200 MB, of its moments 1.5 MB
    assert resident_peak() - peak < 1024
