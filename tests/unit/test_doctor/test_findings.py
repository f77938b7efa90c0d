# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
from sn_mm.doctor.findings import Finding, page


def test_a_page_that_fits_together():
    text = page([Finding('torch', '2.13'), Finding('mmseg', 'none', 'note')])
    assert text.splitlines() == [
        'ok torch         2.13',
        '-  mmseg         none',
        '',
        'All of it fits together.',
    ]


def test_misfits_have_their_fix_below_and_are_summed_up():
    long = ' '.join(['word'] * 30)
    found = Finding('mmcv', long, 'misfit', 'do this:\npip install mmcv')
    lines = page([found, found]).splitlines()
    assert all(len(line) <= 78 for line in lines)
    assert lines[0].startswith('!! mmcv          word word')
    assert lines[1].startswith(' ' * 17 + 'word')
    assert ' ' * 17 + 'pip install mmcv' in lines
    assert lines[-1] == 'To be mended: mmcv.'


def test_commands_are_not_broken():
    command = 'pip install ' + 'a-very-long-name-' * 6
    assert command.split()[-1] in page([Finding('a', 'b', 'misfit', command)])
