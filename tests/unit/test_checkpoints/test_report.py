# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
import logging

from mmengine.logging import MMLogger

from sn_mm.checkpoints.report import Dropped, Report, Used, log_report


def report(**more):
    return Report(
        'a.pth',
        'ResNet-50',
        used=[Used('conv.weight', (4, 3, 1, 1), 'backbone.conv.weight', 'as')],
        **more,
    )


def test_a_complete_account():
    made = report(said=['filled once'])
    assert made.complete and made.problems() is None
    assert made.summary() == (
        'a.pth: ResNet-50\n  1 tensors used\n  filled once'
    )


def test_what_is_left_over():
    made = report(
        dropped=[Dropped('fc.a', 'classifier'), Dropped('fc.b', 'classifier')],
        unknown=['strange'],
        missing=['neck.x'],
    )
    assert not made.complete
    text = made.summary()
    assert 'dropped, classifier: fc.a, fc.b' in text
    assert 'UNKNOWN keys of the file, not used: strange' in text
    assert 'NOT FILLED by the file, as initialised: neck.x' in text
    lines = made.table().splitlines()
    assert lines[0].split()[:4] == ['key', 'in', 'the', 'file']
    assert any(
        line.split()
        == ['conv.weight', '4x3x1x1', 'backbone.conv.weight', 'as']
        for line in lines
    )
    assert any(
        line.split() == ['fc.a', '(dropped)', 'classifier'] for line in lines
    )
    assert any(line.split() == ['strange', '(unknown)'] for line in lines)


def test_what_is_incomplete_is_a_warning(monkeypatch):
    levels = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(
        logger, 'log', lambda level, text: levels.append(level)
    )
    log_report(report())
    log_report(report(missing=['neck.x']))
    assert levels == [logging.INFO, logging.WARNING]
