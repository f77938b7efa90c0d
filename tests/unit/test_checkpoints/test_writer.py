# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import errno

import pytest
import torch

from sn_mm.checkpoints.writer import check_destination, write_checkpoint
from sn_mm.utils.errors import CheckpointError


def test_written_whole(tmp_path):
    path = tmp_path / 'a.pth'
    write_checkpoint(dict(a=torch.ones(3)), path, 12)
    assert torch.equal(torch.load(path)['a'], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ['a.pth']


def test_places_that_will_not_do(tmp_path):
    with pytest.raises(CheckpointError, match='none does not exist'):
        check_destination(tmp_path / 'none' / 'a.pth')
    path = tmp_path / 'a.pth'
    path.write_bytes(b'precious')
    with pytest.raises(CheckpointError, match='exists already'):
        write_checkpoint({}, path, 0)
    assert path.read_bytes() == b'precious'


@pytest.mark.parametrize(
    'error, why',
    [
        (OSError(errno.ENOSPC, 'No space left'), 'the disk is full'),
        (OSError(errno.EACCES, 'Permission denied'), 'Permission denied'),
        (RuntimeError('unexpected pos 64 vs 0\nmore'), 'unexpected pos'),
    ],
)
def test_errors_leave_nothing_behind(tmp_path, monkeypatch, error, why):
    def fail(content, file):
        file.write(b'half')
        raise error

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(CheckpointError, match=f'cannot be written: {why}'):
        write_checkpoint({}, tmp_path / 'a.pth', 4)
    assert not list(tmp_path.iterdir())


def test_the_cause_that_torch_wraps_is_told(tmp_path, monkeypatch):
    def fail(content, file):
        try:
            raise OSError(errno.ENOSPC, 'No space left')
        except OSError as error:
            raise RuntimeError('PytorchStreamWriter failed') from error

    monkeypatch.setattr(torch, 'save', fail)
    with pytest.raises(CheckpointError, match='the disk is full'):
        write_checkpoint({}, tmp_path / 'a.pth', 4)
