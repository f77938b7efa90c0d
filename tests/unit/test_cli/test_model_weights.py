# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Checkpoints of tools that change weights and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sn_mm import SN, cli
from sn_mm.layers import BRN
from sn_mm.utils.errors import CheckpointError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), SN(4))


def other_state():
    return {k: v + 1 for k, v in model().state_dict().items()}


def save(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    return str(tmp_path / 'a.pth')


@pytest.mark.parametrize('bare', [True, False])
def test_a_model_is_filled_and_the_rest_kept(tmp_path, bare):
    state = other_state()
    content = state if bare else dict(state_dict=state, meta=dict(epoch=3))
    target = model()
    found = cli.load_weights(nn.DataParallel(target), save(tmp_path, content))
    assert found['meta'] == ({} if bare else dict(epoch=3))
    for key, value in target.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_counters_may_be_missing(tmp_path):
    state = other_state()
    del state['1.num_batches_tracked']
    cli.load_weights(model(), save(tmp_path, state))
    del state['1.bias']
    with pytest.raises(cli.LaunchError, match='lacks 1.bias: it was trained'):
        cli.load_weights(model(), save(tmp_path, state))


def test_files_that_do_not_fit(tmp_path):
    state = other_state()
    state['0.weight'] = torch.zeros(4, 5, 1, 1)
    with pytest.raises(cli.LaunchError, match='does not fit .*size mismatch'):
        cli.load_weights(model(), save(tmp_path, state))
    bn = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict()
    with pytest.raises((cli.LaunchError, CheckpointError), match='batch norm'):
        cli.load_weights(model(), save(tmp_path, bn))


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(cli.LaunchError, match='holds a list, no weights'):
        cli.load_weights(model(), save(tmp_path, [1]))
    (tmp_path / 'a.pth').write_bytes(b'nothing')
    with pytest.raises(cli.LaunchError, match='a.pth cannot be read: '):
        cli.load_weights(model(), str(tmp_path / 'a.pth'))


def test_statistics_are_written_in_the_shape_and_dtype_of_the_file():
    own = nn.Sequential(SN(4), BRN(4))
    own[0].running_mean.fill_(2)
    own[1].running_std.fill_(3)
    state = own.state_dict()
    content = dict(
        state_dict={
            **state,
            '0.running_mean': torch.zeros(1, 4, 1, dtype=torch.half),
            '1.running_std': torch.zeros(4),
        }
    )
    before = content['state_dict']['0.weight']
    size = cli.put_weights(content, own, ['0', '1'])
    got = content['state_dict']
    mean = got['0.running_mean']
    assert mean.shape == (1, 4, 1) and mean.dtype == torch.half
    assert (mean == 2).all() and (got['1.running_std'] == 3).all()
    assert got['0.weight'] is before
    assert size == sum(t.numel() * t.element_size() for t in got.values())
