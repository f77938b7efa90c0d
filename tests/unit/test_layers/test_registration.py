# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Names of the layers, also where another package took one of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.paths import ROOT

CODE = """
from mmengine.registry import MODELS
from torch import nn

@MODELS.register_module(name={name!r})
class Theirs(nn.Module):
    pass

import sn_mm
"""


@pytest.mark.parametrize('name, own', [('SN', 'SN2d'), ('SSN', 'SSN2d')])
def test_a_name_that_is_taken_ends_in_one_sentence(name, own):
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', CODE.format(name=name)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    for part in (f'{name!r} is already', '__main__.Theirs', repr(own)):
        assert part in last
