# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The examples in docstrings give what they show."""

import doctest
import importlib
import logging

import pytest

from tests.paths import ROOT

MODULES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in (ROOT / 'sn_mm').rglob('*.py')
    if '>>> ' in path.read_text()
)


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    logging.disable(logging.INFO)  # examples do not show what is logged
    try:
        failed, tried = doctest.testmod(module)
    finally:
        logging.disable(logging.NOTSET)
    assert tried and not failed


def test_there_are_examples():
    assert len(MODULES) >= 3
