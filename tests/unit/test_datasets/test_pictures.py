# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Which files are there, asked once for each folder."""

import os

from sn_mm.datasets.pictures import (
    absent,
    files_below,
    some_of,
    why_absent,
)


def touched(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return str(folder)


def test_names_under_which_nothing_can_be_opened(tmp_path):
    folder = touched(tmp_path, 'a.jpg', 'sub/b.jpg')
    names = [
        'a.jpg',
        'sub/../a.jpg',
        f'{tmp_path}/sub/b.jpg',
        'sub',
        'sub/gone.jpg',
        'none/a.jpg',
    ]
    assert absent(names, folder) == ['none/a.jpg', 'sub', 'sub/gone.jpg']


def test_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(touched(tmp_path, 'a.jpg'))
    assert absent(['a.jpg', 'b.jpg'], '') == ['b.jpg']


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    folder = touched(tmp_path, *(f'{i}.jpg' for i in range(20)))
    listed, scandir = [], os.scandir
    monkeypatch.setattr(
        os, 'scandir', lambda f: listed.append(f) or scandir(f)
    )
    assert not absent([f'{i}.jpg' for i in range(20)], folder)
    assert len(listed) == 1


def test_files_below_a_folder(tmp_path):
    folder = touched(tmp_path, 'a.png', 'x/b.png', 'x/y/c.png', 'x/.hidden')
    (tmp_path / 'x/back').symlink_to(tmp_path)
    (tmp_path / 'away').mkdir()
    (tmp_path / 'away/link').symlink_to(tmp_path / 'x/y')
    assert sorted(files_below(folder)) == [
        'a.png',
        'away/link/c.png',
        'x/b.png',
        'x/y/c.png',
    ]


def test_how_it_is_said(tmp_path):
    assert some_of([], 3, 'pictures', 'f', 'ann.json') is None
    assert some_of(['b', 'c'], 9, 'pictures', '', 'ann.json') == (
        'the current folder lacks 2 of the 9 pictures that ann.json has, '
        'such as b'
    )
    folder = touched(tmp_path, 'b.jpg')
    assert 'backslashes' in why_absent(['sub\\b.jpg'], folder)
    assert 'b.jpg is there' in why_absent(['imgs/b.jpg'], folder)
    assert why_absent(['c.jpg'], folder) == ''
