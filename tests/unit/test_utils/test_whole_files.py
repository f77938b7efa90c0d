# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Files that appear whole or not at all."""

import json
import os

import pytest

from sn_mm.utils import write_json, write_text, written_whole


def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / 'numbers.txt'
    with written_whole(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == '.txt'
        temporary.write_text('1 2')
        assert not path.exists()
    assert path.read_text() == '1 2' and os.listdir(tmp_path) == [path.name]


def test_after_an_error_the_old_content_stays(tmp_path):
    path = tmp_path / 'numbers.txt'
    path.write_text('old')
    with pytest.raises(ZeroDivisionError), written_whole(path) as temporary:
        temporary.write_text('half of')
        _ = 1 / 0
    assert path.read_text() == 'old' and os.listdir(tmp_path) == [path.name]


def test_others_may_read_it_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / 'x', 'text')
    finally:
        os.umask(before)
    assert (tmp_path / 'x').stat().st_mode & 0o777 == 0o640


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / 'missing' / 'x.json'
    with pytest.raises(FileNotFoundError) as caught:
        write_json(path, {})
    assert caught.value.filename == str(path)


def test_json_of_what_json_does_not_know_changes_nothing(tmp_path):
    path = tmp_path / 'x.json'
    write_json(path, dict(a=[1, 2]))
    with pytest.raises(TypeError):
        write_json(path, dict(a={1, 2}))
    assert json.loads(path.read_text()) == dict(a=[1, 2])
    assert os.listdir(tmp_path) == ['x.json']
