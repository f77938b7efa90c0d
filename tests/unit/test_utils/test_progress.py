# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Progress on a terminal and in logs."""

import io
import sys

import pytest

from sn_mm.utils import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, moved by the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    return now


def test_lines_in_a_log_from_time_to_time(clock, capsys):
    with progress.progress_bar('averaging', 10) as advance:
        advance()
        clock[0] += 31
        advance()
        clock[0] += 5
        advance()
        clock[0] += 30
        advance(3)
    assert capsys.readouterr().err.splitlines() == [
        'averaging: 2 of 10, 124 s left',
        'averaging: 6 of 10, 44 s left',
    ]


def test_a_total_that_nobody_knows(clock, capsys):
    with progress.progress_bar('reading', None) as advance:
        clock[0] += 40
        advance(7)
    assert capsys.readouterr().err == 'reading: 7\n'


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('in_bytes', [False, True])
def test_a_bar_on_a_terminal(monkeypatch, in_bytes):
    pytest.importorskip('rich')
    screen = Terminal()
    monkeypatch.setattr(sys, 'stderr', screen)
    with progress.progress_bar('writing', 4, in_bytes=in_bytes) as advance:
        for _ in range(4):
            advance()
    text = screen.getvalue()
    assert 'writing' in text and ('bytes' if in_bytes else '4/4') in text


@pytest.mark.parametrize('shown, main', [(False, True), (True, False)])
def test_nothing_is_shown(monkeypatch, clock, capsys, shown, main):
    """As asked for, and by all processes but the first."""
    monkeypatch.setattr(progress, 'is_main_process', lambda: main)
    with progress.progress_bar('x', 3, shown) as advance:
        clock[0] += 99
        advance(2)
    assert capsys.readouterr().err == ''
