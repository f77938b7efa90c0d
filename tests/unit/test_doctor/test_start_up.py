# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sn_mm.doctor import start_up
from tests.paths import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stands in for site-packages."""
    monkeypatch.setattr(start_up, '_folders', lambda: [tmp_path / 'site'])
    return tmp_path / 'site'


def test_install_and_remove(folder):
    assert start_up.installed() is None
    text = start_up.install()
    assert str(folder / start_up.NAME) in text
    start_up.install()
    assert start_up.installed() == folder / start_up.NAME
    assert [p.name for p in folder.iterdir()] == [start_up.NAME]
    assert 'removed' in start_up.remove()
    assert list(folder.iterdir()) == []
    assert 'nothing was changed' in start_up.remove()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    folders = [tmp_path / 'file' / 'site']
    monkeypatch.setattr(start_up, '_folders', lambda: folders)
    with pytest.raises(OSError, match='cannot write .*file/site'):
        start_up.install()


def test_without_a_home_nothing_is_written_where_one_happens_to_be(
    tmp_path, monkeypatch
):
    (tmp_path / 'file').touch()
    paths = {'purelib': str(tmp_path / 'file' / 'site')}
    monkeypatch.setattr(start_up.sysconfig, 'get_paths', lambda: paths)
    monkeypatch.setattr(start_up.site, 'ENABLE_USER_SITE', True)
    monkeypatch.setattr(
        start_up.site, 'getusersitepackages', lambda: '~/.local/site'
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match='cannot write .*file/site'):
        start_up.install()
    assert [p.name for p in tmp_path.iterdir()] == ['file']
    assert start_up.installed() is None


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """An environment of its own, with nothing but Python in it."""
    venv = tmp_path_factory.mktemp('bare') / 'venv'
    command = [sys.executable, '-m', 'venv', '--without-pip', str(venv)]
    subprocess.run(command, check=True)
    return venv


def python(venv: Path, *words: str, path: str = '') -> str:
    done = subprocess.run(
        [venv / 'bin' / 'python', *words],
        cwd=venv,
        env={**os.environ, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


def test_every_start_serves_and_none_fails(bare):
    code = 'import sys; print([n in sys.modules for n in ("sn_mm_ops", "sn_mm", "torch")])'  # noqa: E501
    doctor = ('-m', 'sn_mm.doctor')
    assert python(bare, '-c', code) == '[False, False, False]'
    python(bare, *doctor, '--install-ops', path=str(ROOT))
    assert python(bare, '-c', code, path=str(ROOT)) == '[True, False, False]'
    # as after `pip uninstall sn_mm`: nothing, and nothing on stderr
    assert python(bare, '-c', code) == '[False, False, False]'
    python(bare, *doctor, '--remove-ops', path=str(ROOT))
    assert python(bare, '-c', code, path=str(ROOT)) == '[False, False, False]'


def test_the_page_is_printed_where_nothing_is_installed(bare):
    done = subprocess.run(
        [bare / 'bin' / 'python', '-m', 'sn_mm.doctor'],
        cwd=bare,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stderr
    for name in ('torch', 'mmengine', 'sn_mm'):
        assert f'!! {name}' in done.stdout
    assert 'pip install torch' in ' '.join(done.stdout.split())


def test_the_command_prints_its_page_too(bare, tmp_path):
    """The console script that pip writes, here by hand."""
    script = tmp_path / 'sn-mm-doctor'
    script.write_text(
        'import sys\nfrom sn_mm.doctor.__main__ import main\nsys.exit(main())'
    )
    done = subprocess.run(
        [bare / 'bin' / 'python', script],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and '!! torch' in done.stdout
