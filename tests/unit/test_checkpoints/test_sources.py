# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What users write for a checkpoint, taken apart; and the files behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sn_mm.checkpoints.sources import (
    Source,
    named_in_errors,
    one_path,
    open_files,
    parse,
    resolve,
)
from sn_mm.utils.errors import CheckpointError


@pytest.mark.parametrize(
    'text, want',
    [
        ('a.pth', Source('sn://', ('a.pth',), {})),
        ('sn://a.pth,b.pth', Source('sn://', ('a.pth', 'b.pth'), {})),
        ('sn://a.pth?to=model', Source('sn://', ('a.pth',), dict(to='model'))),
        (
            'bn2sn://torchvision://resnet50?ratios=0.5&part=backbone',
            Source(
                'bn2sn://',
                ('torchvision://resnet50',),
                dict(ratios='0.5', part='backbone'),
            ),
        ),
        (
            # a query of the address's own
            'bn2norm://https://host/a.pth?x=1/2',
            Source('bn2norm://', ('https://host/a.pth?x=1/2',), {}),
        ),
        ('ibn://a.pth?to=', Source('ibn://', ('a.pth',), dict(to=''))),
    ],
)
def test_parts_of_the_text(text, want):
    assert parse(text) == want
    assert parse(text).is_bn is text.startswith('bn2')


def test_files_that_are_really_called_so(tmp_path):
    for name in ('a,b.pth', 'c?to=d'):
        path = tmp_path / name
        path.touch()
        assert parse(path).names == (str(path),)


def test_options_of_other_schemes():
    with pytest.raises(CheckpointError, match="sn:// has no option 'part'"):
        parse('sn://a.pth?part=x')
    with pytest.raises(CheckpointError, match='it has ratios, part'):
        parse('bn2sn://a.pth?to=model')


def test_numbers_of_files():
    with pytest.raises(CheckpointError, match='takes one file'):
        one_path(Source('bn2sn://', ('a', 'b'), {}))
    with pytest.raises(CheckpointError, match='no file named'):
        open_files([])


def test_the_file_is_named_in_errors():
    class File:
        path = Path('x.pth')

    with pytest.raises(CheckpointError, match='^x.pth: broken$') as error:
        with named_in_errors(File()):
            raise CheckpointError('broken')
    assert isinstance(error.value.__cause__, CheckpointError)


def test_addresses(tmp_path, monkeypatch):
    """Fetched once, into torch's folder; a failure names the place."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    fetched = []

    def fetch(url, file, *digits):
        if 'gone' in url:
            raise OSError('404')
        fetched.append(url)
        Path(file).touch()

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    url = 'https://host/dir/a.pth?token=1'
    want = tmp_path / 'checkpoints' / 'a.pth'
    assert resolve(url) == resolve(url) == want
    assert fetched == [url]
    with pytest.raises(CheckpointError, match='gone.pth cannot be fetched'):
        resolve('https://host/gone.pth')
    with pytest.raises(CheckpointError, match='ftp://a: bn2sn:// and sn://'):
        resolve('ftp://a')
    with pytest.raises(CheckpointError, match="no model 'no_such_net'"):
        resolve('open-mmlab://no_such_net')
