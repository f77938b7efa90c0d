# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Both sweeps in one call: evaluation in blocks of samples, and gradients."""

from __future__ import annotations

import pytest
import torch

from sn_mm import SN2d
from tests.utils import randomize, relative_error, usable_backends

pytestmark = pytest.mark.skipif(
    'native' not in usable_backends(), reason='needs a C compiler'
)


# many blocks of several samples, the last one not full; a block a sample
@pytest.mark.parametrize('shape', [(67, 64, 14, 14), (3, 16, 120, 100)])
@pytest.mark.parametrize('last', [False, True])
def test_evaluation_by_blocks_is_the_whole_batch(shape, last):
    layer = randomize(
        SN2d(shape[1], statistics=('in', 'ln', 'bn', 'gn'), num_groups=4)
    ).eval()
    x = torch.randn(shape) + 3 * torch.randn(*shape[:2], 1, 1)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    dy = torch.randn(shape)
    results = []
    for module, dtype in ((layer, None), (layer, torch.double)):
        if dtype is None:
            with torch.no_grad():
                alone = module(x)
        leaf = x.to(dtype or x.dtype).requires_grad_()
        y = module(leaf)
        inputs = (leaf, *module.parameters())
        results.append([y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))])
        if dtype is None:
            assert torch.equal(alone, y)
            module.double()
    for got, want in zip(*results):
        assert relative_error(got, want) < 2e-5
