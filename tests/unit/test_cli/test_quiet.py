# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What is silenced, and that nothing else is."""

import logging
import sys
import warnings

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from sn_mm import cli


def test_only_what_setuptools_says_of_packages():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        with cli.without_packaging_warnings():
            warnings.warn('pkg_resources is deprecated', stacklevel=1)
            warnings.warn('something else', stacklevel=1)
    assert [str(w.message) for w in caught] == ['something else']


def test_prints_go_and_errors_stay(capsys):
    with cli.without_prints():
        print('loading annotations into memory')
        print('broken', file=sys.stderr)
    print('result')
    said = capsys.readouterr()
    assert (said.out, said.err) == ('result\n', 'broken\n')


@pytest.mark.parametrize(
    'given, want',
    [
        ({}, 'WARNING'),
        (dict(log_level='INFO'), 'WARNING'),
        (dict(log_level='DEBUG'), 'DEBUG'),
        (dict(log_level='ERROR'), 'ERROR'),
    ],
)
def test_a_level_that_was_asked_for_stays(given, want):
    cfg = Config(given)
    cli.log_warnings_alone(cfg)
    assert cfg.log_level == want


def test_building_models_in_silence():
    logger = MMLogger.get_current_instance()
    level = logger.level
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            cli.hush_model_building()
            warnings.warn('build_loss would be deprecated', stacklevel=1)
        assert not caught
        assert logger.level == logging.ERROR
    finally:
        logger.setLevel(level)
