# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from pathlib import Path

import pytest

from sn_mm.checkpoints.locate import FOLDER_VARIABLE, folder, locate
from sn_mm.utils.errors import CheckpointError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


def test_the_folder(monkeypatch, tmp_path):
    assert folder() == Path('checkpoints')
    monkeypatch.setenv(FOLDER_VARIABLE, '~/weights')
    assert folder() == Path.home() / 'weights'


def test_a_file_here_goes_before_one_in_the_folder(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    there = tmp_path / 'checkpoints' / 'a.pth'
    there.touch()
    assert locate('a.pth') == Path('checkpoints/a.pth')
    (tmp_path / 'a.pth').touch()
    assert locate('a.pth') == Path('a.pth')
    assert locate(str(there)) == there


def test_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError) as error:
        locate('resnetv1sn50.pth')
    text = str(error.value)
    assert str(tmp_path / 'checkpoints' / 'resnetv1sn50.pth') in text
    assert 'github.com/' in text and FOLDER_VARIABLE in text
    # a path is not looked for elsewhere
    with pytest.raises(CheckpointError, match='b/a.pth does not exist'):
        locate('b/a.pth')
    (tmp_path / 'd').mkdir()
    with pytest.raises(CheckpointError, match='d is a folder'):
        locate('d')
