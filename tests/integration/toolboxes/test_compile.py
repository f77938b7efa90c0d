# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""torch.compile of models with SN."""

import pytest
import torch
from torch import nn

from sn_mm import SN2d
from tests.builders import flatten, randomize_norms, resnet
from tests.norm_tester import NORMS, Bound, gradient_of
from tests.utils import assert_close, needs_compile, randomize, run

pytestmark = needs_compile
# every layer takes seconds to trace
STAGE = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize('training', [True, False])
def test_backbone_is_one_graph_of_any_size(training):
    model = randomize_norms(resnet(**STAGE))
    del model.layer1[1]
    model.train(training)
    fast = torch.compile(model, backend='aot_eager', fullgraph=True)
    for size in ((40, 56), (64, 32), (72, 88)):
        x = torch.randn(2, 3, *size)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with torch.no_grad():
            want = list(flatten(model(x)))
            model.load_state_dict(state)
            got = list(flatten(fast(x)))
        for a, b in zip(got, want):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_inductor():
    """Machine code of the default backend, once, on a small layer."""
    layer = randomize(SN2d(4))
    reference = randomize(SN2d(4))
    gen = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(2, 4, 6, 5, generator=gen) for _ in range(2))
    fast = torch.compile(layer, fullgraph=True)
    got = run(Bound(layer, fast), x, dy)
    assert_close(got, run(reference, x, dy), 2e-5)


class Beside(nn.Module):
    """Outputs of several norms for one input, concatenated."""

    def __init__(self, norms):
        super().__init__()
        self.norms = nn.ModuleList(norms)

    def forward(self, x):
        return torch.cat([norm(x) for norm in self.norms], 1)


@pytest.mark.slow
def test_inductor_of_the_family():
    """Two rules in one graph; all rows, uncompiled: tests/norm_tester.py.

    BRN's gradient needs running statistics as they were before the forward
    moved them. The gradient of what is concatenated is no memory of its own.
    """
    rows = [row for row in NORMS if row.name in ('BRN', 'AN')]
    layer, eager = (Beside(row.layer() for row in rows) for _ in range(2))
    fast = torch.compile(layer, fullgraph=True)
    for seed in range(2):
        x = rows[0].input(seed=seed)
        dy = gradient_of(torch.cat([x, x], 1))
        got = run(Bound(layer, fast), x, dy)
        assert_close(got, run(eager, x, dy), 2e-5)
    for a, b in zip(layer.buffers(), eager.buffers()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_an_activation_that_follows_keeps_nothing_more(dtype):
    """Of the input's size, x alone waits for the backward."""
    layer = nn.Sequential(SN2d(8), nn.SiLU())
    x = torch.randn(2, 8, 40, 56).to(dtype).requires_grad_()
    fast = torch.compile(
        layer, backend='aot_eager_decomp_partition', fullgraph=True
    )
    y = fast(x)
    kept = y.grad_fn.saved_tensors
    large = [t for t in kept if t.numel() >= x.numel()]
    assert [t.dtype for t in large] == [dtype]
    torch.testing.assert_close(large[0], x)
