# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Tools answer --help, and wrong arguments, before they import PyTorch.

Nor do they import other large libraries for that.
"""

import subprocess
import sys

import pytest

from tests.paths import TOOLS

NAMES = sorted({p.name for p in TOOLS.glob('*.py')} - {'tool_arguments.py'})
# without what takes long to import, as `python tools/NAME` otherwise
SLOW = ('torch', 'mmengine', 'sn_mm', 'numpy', 'cv2', 'sklearn', 'matplotlib')
CODE = (
    f'import runpy, sys; sys.modules.update(dict.fromkeys({SLOW})); '
    'del sys.argv[0]; sys.path[0] = sys.argv[0].rpartition("/")[0]; '
    'runpy.run_path(sys.argv[0], run_name="__main__")'
)


def call(name: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-c', CODE, TOOLS / name, *arguments],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize('name', NAMES)
def test_help_needs_no_torch(name):
    done = call(name, '--help')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage: ')


@pytest.mark.parametrize('name', NAMES)
def test_wrong_arguments_need_no_torch(name):
    done = call(name, '--no-such-option')
    assert done.returncode == 2, done.stderr
    assert 'error: ' in done.stderr


def test_settings_are_pairs():
    done = call('train.py', 'config.py', '--cfg-options', 'a=1', 'nonsense')
    assert done.returncode == 2, done.stderr
    assert '--cfg-options nonsense: write KEY=VALUE' in done.stderr
    assert 'Traceback' not in done.stderr


def test_targets_of_the_converter_are_its_choices():
    import importlib.util

    from sn_mm.checkpoints.files import TARGETS

    spec = importlib.util.spec_from_file_location(
        'convert_checkpoint', TOOLS / 'convert_checkpoint.py'
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert sorted(tool._TARGETS) == sorted(TARGETS)
