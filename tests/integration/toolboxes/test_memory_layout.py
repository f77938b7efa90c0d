# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""channels_last and strided inputs: the layout kept, the numbers the oracle's.

Two layouts are summed in two orders, so each is compared with float64.
"""

import pytest
import torch

from sn_mm import SN
from tests.builders import (
    outputs_and_grads,
    randomize_norms,
    resnet,
    switch_norms,
)
from tests.utils import assert_close, randomize, run, run_reference

LAST = torch.channels_last
MODES = pytest.mark.parametrize(
    'training', [True, False], ids=['train', 'eval']
)
STATISTICS = pytest.mark.parametrize(
    'statistics',
    [('in', 'ln', 'bn'), ('in', 'ln'), ('gn', 'bn')],
    ids='-'.join,
)


@MODES
@STATISTICS
@pytest.mark.parametrize(
    'shape', [(2, 8, 5, 7), (1, 8, 6, 6), (3, 8, 1, 9), (2, 8, 33, 65)]
)
def test_channels_last(training, statistics, shape):
    layer = SN(8, statistics=statistics, num_groups=4)
    randomize(layer).train(training)
    gen = torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, *shape, generator=gen).unbind(0)
    uses_running = not training and 'bn' in statistics
    want = run_reference(layer, x, dy, use_running=uses_running)
    for grad in (dy, dy.contiguous(memory_format=LAST)):
        got = run(layer, x.contiguous(memory_format=LAST), grad)
        assert got['y'].is_contiguous(memory_format=LAST)
        assert_close(got, want, 2e-4)
    # contiguous input stays so, whatever the gradient's layout
    got = run(layer, x, dy.contiguous(memory_format=LAST))
    assert got['y'].is_contiguous() and got['x'].is_contiguous()
    assert_close(got, want, 2e-4)


STRIDED = {
    'every second column': lambda x: x[..., ::2],
    'a crop': lambda x: x[:, :, 1:-1, 2:-1],
    'some channels': lambda x: x[:, 4:12],
    'every second image': lambda x: x[::2],
    'height and width swapped': lambda x: x.transpose(2, 3),
    'images and channels swapped': lambda x: x[:, :4].transpose(0, 1),
    'expanded': lambda x: x[:1, :, :1].expand(3, -1, 5, -1),
    'one image expanded': lambda x: x[:1].expand(3, -1, -1, -1),
}


@MODES
@pytest.mark.parametrize('name', STRIDED)
@pytest.mark.parametrize(
    'layout',
    [torch.contiguous_format, LAST],
    ids=['contiguous', 'channels_last'],
)
def test_strided(name, training, layout):
    gen = torch.Generator().manual_seed(0)
    whole = torch.randn(4, 16, 7, 9, generator=gen)
    whole = whole.contiguous(memory_format=layout)
    x, dy = STRIDED[name](whole), STRIDED[name](whole.cos())
    layer = randomize(SN(x.shape[1])).train(training)
    want = run_reference(layer, x, dy, use_running=not training)
    assert_close(run(layer, x, dy), want, 2e-4)
    assert_close(run(layer, x.contiguous(), dy), want, 2e-4)


def test_the_running_statistics_do_not_depend_on_the_layout():
    x = torch.randn(2, 8, 5, 7)
    a, b = SN(8).train(), SN(8).train()
    a(x)
    b(x.contiguous(memory_format=LAST))
    torch.testing.assert_close(a.running_mean, b.running_mean)
    torch.testing.assert_close(a.running_var, b.running_var)


def test_a_backbone_in_channels_last():
    model = randomize_norms(resnet()).double()
    model.train()
    x = torch.randn(2, 3, 40, 56, dtype=torch.double)
    want = outputs_and_grads(model, x)
    model.to(memory_format=LAST)
    layouts = []
    for layer in switch_norms(model).values():
        layer.register_forward_hook(
            lambda m, args, y: layouts.append(
                (
                    args[0].is_contiguous(memory_format=LAST),
                    y.is_contiguous(memory_format=LAST),
                )
            )
        )
    got = outputs_and_grads(model, x.contiguous(memory_format=LAST))
    assert set(layouts) == {(True, True)}
    assert_close(got, want, 1e-8)
