# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Every norm layer of a model, and what becomes of it in training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm import SN, SyncSN, harden
from sn_mm.analysis.norm_table import norm_rows, summary, table


class Model(nn.Module):
    """A norm of each kind, in the components of a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            dict(sn=SN(4), sync=SyncSN(4), bn=nn.BatchNorm2d(4))
        )
        self.neck = nn.ModuleDict(
            dict(gn=nn.GroupNorm(2, 6), hard=harden(SN(6, unbiased=True)))
        )


@pytest.fixture
def model():
    with pytest.warns(UserWarning, match='have not decided'):
        return Model()


def rows_by_name(model, decay=None):
    return {row.name: row for row in norm_rows(model, decay)}


def test_what_they_are(model):
    rows = rows_by_name(model)
    assert {n: (r.component, r.kind, r.channels) for n, r in rows.items()} == {
        'backbone.sn': ('backbone', 'SN2d', 4),
        'backbone.sync': ('backbone', 'SyncSN', 4),
        'backbone.bn': ('backbone', 'BatchNorm2d', 4),
        'neck.gn': ('neck', 'GroupNorm(2)', 6),
        'neck.hard': ('neck', 'SN2d, hard', 6),
    }
    assert rows['backbone.sn'].ratios.share('mean', 'in') == pytest.approx(
        1 / 3
    )
    assert rows['neck.gn'].ratios is None


def test_which_take_their_own_batch(model):
    """Not those that are synchronized, frozen or without batch statistics."""
    own = {n for n, row in rows_by_name(model).items() if row.batch}
    assert own == {'backbone.sn', 'backbone.bn', 'neck.hard'}
    model.backbone.sn.bn_eval = True
    model.backbone.bn.eval()
    rows = rows_by_name(model)
    assert {n for n, row in rows.items() if row.batch} == {'neck.hard'}
    assert rows['backbone.bn'].kind == 'BatchNorm2d, running statistics'


def test_what_trains_and_decays(model):
    sn = model.backbone.sn
    sn.weight.requires_grad_(False)
    model.neck.gn.requires_grad_(False)
    assert rows_by_name(model)['backbone.sn'].decayed == '?'
    decay = {p: 1e-4 for p in model.parameters()}
    decay[sn.mean_weight] = 0
    rows = rows_by_name(model, decay)
    assert rows['backbone.sn'].trainable == 'bias, mean_weight, var_weight'
    assert rows['backbone.sn'].decayed == 'bias, var_weight'
    assert (rows['neck.gn'].trainable, rows['neck.gn'].decayed) == ('no',) * 2
    assert (rows['backbone.bn'].trainable, rows['backbone.bn'].decayed) == (
        'yes',
        'yes',
    )


def test_as_text(model):
    with torch.no_grad():
        model.backbone.sn.mean_weight.copy_(torch.tensor([9.0, 0, 0]))
    model.neck.gn.requires_grad_(False)
    rows = norm_rows(model)
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({len(line.rstrip()) > 0 for line in lines}) == 1
    assert 'in 1.00 ln 0.00 bn 0.00' in lines[2]
    assert summary(rows).splitlines() == [
        'backbone: 1 x SN2d, 1 x SyncSN, 1 x BatchNorm2d',
        'FPN / neck: 1 x GroupNorm(2), 1 x SN2d, hard; 1 frozen',
    ]
