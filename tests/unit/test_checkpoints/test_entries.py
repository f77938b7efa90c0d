# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""How single tensors change on their way, and back."""

from __future__ import annotations

import pytest
import torch

from sn_mm.checkpoints.entries import (
    BACKGROUND_LAST,
    FLATTEN,
    SAME,
    NormKind,
    conv,
    norm,
    without_background,
)

ROWS = torch.arange(12.0).view(6, 2)


@pytest.mark.parametrize(
    'op, value, want',
    [
        (SAME, ROWS, ROWS),
        (FLATTEN, torch.arange(3.0).view(1, 3, 1, 1), torch.arange(3.0)),
        (BACKGROUND_LAST, ROWS, ROWS[[1, 2, 3, 4, 5, 0]]),
        (without_background(4), ROWS, ROWS[4:]),
    ],
    ids=lambda v: getattr(v, 'kind', ''),
)
def test_there_and_back(op, value, want):
    got = op.forward(value)
    assert torch.equal(got, want)
    assert tuple(got.shape) == op.shape(tuple(value.shape))
    back = op.inverse(got, tuple(value.shape), op.leftover(value))
    assert torch.equal(back, value)


def test_rows_that_nobody_kept_are_zero():
    op = without_background(1)
    back = op.inverse(ROWS[1:], (6, 2), None)
    assert torch.equal(back, torch.cat([torch.zeros(1, 2), ROWS[1:]]))
    assert SAME.leftover(ROWS) is None
    # rows that are kept do not keep all of the file's memory
    assert op.forward(ROWS).untyped_storage().nbytes() == 10 * 4
    assert op.name == 'without background (1 row)'


def test_what_norms_of_a_file_hold():
    three, two = NormKind(), NormKind(2, sparse=True)
    assert (three.statistics, three.type) == (('in', 'ln', 'bn'), 'SN')
    assert (two.statistics, two.type) == (('in', 'ln'), 'SSN')
    names = [e.public for e in norm('a.1', 'b.sn', 5, three)]
    assert names == [
        f'a.1.{n}'
        for n in (
            'weight',
            'bias',
            'mean_weight',
            'var_weight',
            'running_mean',
            'running_var',
        )
    ]
    entries = {e.target: e.shape for e in norm('a.1', 'b.sn', 5, two)}
    assert 'b.sn.running_mean' not in entries
    assert entries['b.sn.weight'] == (1, 5, 1, 1)
    assert entries['b.sn.var_weight'] == (2,)
    assert entries['b.sn.radius'] == (1,)


def test_layers_with_and_without_a_bias():
    (only,) = conv('a', 'b', 4, 3, 1, 1)
    assert (only.public, only.target) == ('a.weight', 'b.weight')
    weight, bias = conv('a', 'b', 4, 3, bias=True)
    assert weight.shape == (4, 3) and bias.shape == (4,)
