# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Failures name the tensor that they are about."""

import pytest
import torch
from torch import nn

from sn_mm import SN
from sn_mm.layers.blame import blame_tensor

X = torch.randn(3, 8, 5, 4)
ODD = {
    'on meta': lambda t: t.to('meta'),
    'layout torch.sparse_coo': lambda t: t.to_sparse(),
    r'shape \(1, 8\)': lambda t: t[None],
}
UNWRITABLE = {
    'cannot be written to': lambda t: t[:1].expand(8),
    'share memory': lambda t: torch._efficientzerotensor(t.shape),
    'cannot hold an average': lambda t: t.long(),
}


def broken(name, change):
    layer = SN(8)
    layer._buffers[name] = change(getattr(layer, name))
    return layer


@pytest.mark.parametrize('words', ODD)
def test_odd_tensors_in_evaluation(words):
    layer = broken('running_var', ODD[words]).eval()
    with pytest.raises(ValueError, match=f'running_var of this SN2d.*{words}'):
        layer(X)


@pytest.mark.parametrize('words', UNWRITABLE)
def test_buffers_that_cannot_move(words):
    layer = broken('running_mean', UNWRITABLE[words])
    with pytest.raises(ValueError, match=f'running_mean.*{words}') as error:
        layer(X)
    assert error.value.__cause__ is not None
    assert layer.num_batches_tracked == 0  # nothing half done
    assert layer.eval()(X).isfinite().all()  # evaluation only reads


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize(
    'names', [('running_mean', 'running_var'), ('running_var',)]
)
def test_running_statistics_that_were_taken_away(names, training):
    layer = SN(8).train(training)
    for name in names:
        setattr(layer, name, None)
    with pytest.raises(ValueError, match=f'{names[0]} of this SN2d is None'):
        layer(X)
    # what adaptation at test time does to batch norms
    layer.track_running_stats = False
    torch.testing.assert_close(layer(X), SN(8)(X))


@pytest.mark.parametrize('name', ['mean_weight', 'var_weight'])
def test_ratios_that_were_taken_away(name):
    layer = SN(8)
    setattr(layer, name, None)
    with pytest.raises(ValueError, match=f'{name} has shape None'):
        layer(X)


def test_nothing_to_blame():
    blame_tensor(SN(8), X, RuntimeError('something else'))


@pytest.mark.parametrize('name', ['weight', 'mean_weight'])
@pytest.mark.parametrize('training', [False, True])
def test_complex_parameters(name, training):
    layer = SN(4).train(training)
    value = getattr(layer, name).detach() + 0j
    layer._parameters[name] = nn.Parameter(value)
    with pytest.raises(ValueError, match=f'{name} .*complex64.*real'):
        layer(torch.randn(2, 4, 3, 3))


def test_a_count_that_was_taken_away():
    layer = SN(4)
    layer.num_batches_tracked = None
    with pytest.raises(ValueError, match='num_batches_tracked .* is None'):
        layer(torch.randn(2, 4, 3, 3))
