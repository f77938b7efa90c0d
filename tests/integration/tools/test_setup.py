# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What a regular, not editable, installation brings."""

import subprocess
import sys

import pytest
import yaml

from tests.paths import ROOT


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp('build')
    command = [sys.executable, 'setup.py', '-q', 'build_py', '-d', str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out / 'sn_mm'


def test_sources_of_the_engines_are_there(built):
    engines = built / 'functional' / 'engines'
    assert (engines / 'switch.c').is_file() and (engines / 'rows.h').is_file()


def test_mim_finds_every_config(built):
    mim = built / '.mim'
    index = yaml.safe_load((mim / 'model-index.yml').read_text())
    count = 0
    for name in index['Import']:
        metafile = yaml.safe_load((mim / name).read_text())
        for model in metafile['Models']:
            assert (mim / model['Config']).is_file(), model['Config']
            count += 1
    assert count > 100
    assert (mim / 'tools' / 'train.py').is_file()
    assert not list(mim.rglob('__pycache__'))
