# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from collections import OrderedDict

import pytest
from torch import nn

from sn_mm.surgery.place import axes_at

N = nn.SyncBatchNorm(4)


def named(**modules):
    return nn.Sequential(OrderedDict(modules))


@pytest.mark.parametrize(
    'model, name, axes',
    [
        (named(conv=nn.Conv3d(3, 4, 1), norm=N), 'norm', 3),
        (named(fc=nn.Linear(3, 4), norm=N), 'norm', 0),
        # what has no parameters is passed over
        (named(conv=nn.Conv1d(3, 4, 1), act=nn.ReLU(), norm=N), 'norm', 1),
        # the first is told by what follows
        (named(norm=N, act=nn.ReLU(), conv=nn.Conv3d(4, 4, 1)), 'norm', 3),
        (named(other=nn.BatchNorm1d(4), norm=N), 'norm', 1),
        # the last part of a block before it, the first of one behind
        (
            named(
                block=nn.Sequential(nn.Linear(3, 4), nn.Conv3d(3, 4, 1)),
                norm=N,
            ),
            'norm',
            3,
        ),
        (
            named(
                norm=N,
                block=nn.Sequential(nn.Linear(3, 4), nn.Conv3d(3, 4, 1)),
            ),
            'norm',
            0,
        ),
        (named(act=nn.ReLU(), norm=N), 'norm', 2),
        # one that might do anything
        (named(rnn=nn.LSTM(3, 4), norm=N), 'norm', None),
        (named(a=named(conv=nn.Conv3d(3, 4, 1), norm=N)), 'a.norm', 3),
        (N, '', 2),
    ],
)
def test_neighbours_tell(model, name, axes):
    assert axes_at(model, name) == axes
