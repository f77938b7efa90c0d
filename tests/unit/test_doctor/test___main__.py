# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The doctor's command line, its examination stood in for."""

import io

import pytest

from sn_mm.doctor import __main__ as command
from sn_mm.doctor import start_up
from sn_mm.doctor.findings import Finding


@pytest.fixture
def asked(monkeypatch):
    """Arguments of the examination; what it finds can be changed."""
    calls = dict(finds=[Finding('torch', '2.13')])

    def examine(**arguments):
        calls.update(arguments)
        return calls['finds']

    monkeypatch.setattr(command, 'examine', examine)
    return calls


def test_the_page_and_the_status(asked, capsys):
    assert command.main([]) == 0
    assert 'All of it fits together.' in capsys.readouterr().out
    assert (asked['needed'], asked['folders']) == ((), True)
    asked['finds'] = [Finding('torch', 'none', 'misfit', 'pip install')]
    assert command.main(['--packages', 'mmdet']) == 1
    assert 'To be mended: torch.' in capsys.readouterr().out
    assert (asked['needed'], asked['folders']) == (['mmdet'], False)
    asked['finds'] = [Finding('mmseg', 'none', 'note')]
    assert command.main(['--packages']) == 0


def test_a_terminal_that_cannot_show_what_a_package_said(asked, monkeypatch):
    asked['finds'] = [Finding('torch', 'Fehler \u4e2d \udce9', 'misfit')]
    for encoding in ('ascii', 'latin-1', 'utf-8'):
        out = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr('sys.stdout', out)
        assert command.main([]) == 1
        assert b'Fehler' in out.buffer.getvalue()


def test_the_line_that_serves_operators(monkeypatch, capsys):
    monkeypatch.setattr(start_up, 'install', lambda: 'wrote it')
    monkeypatch.setattr(start_up, 'remove', lambda: 'removed it')
    assert command.main(['--install-ops']) == 0
    assert command.main(['--remove-ops']) == 0
    assert capsys.readouterr().out == 'wrote it\nremoved it\n'

    def fail():
        raise OSError('cannot write there')

    monkeypatch.setattr(start_up, 'install', fail)
    assert command.main(['--install-ops']) == 1
    assert capsys.readouterr().err == 'error: cannot write there\n'


@pytest.mark.parametrize(
    'args', [['--packages', 'mmnone'], ['--install-ops', '--remove-ops']]
)
def test_wrong_arguments(args, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(args)
    assert error.value.code == 2 and 'error: ' in capsys.readouterr().err
