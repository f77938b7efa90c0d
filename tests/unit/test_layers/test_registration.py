# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Names of the layers, also where another package took one of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mmengine.registry import MODELS
from torch import nn

from sn_mm import SSN
from sn_mm.layers.registration import register_norm
from tests.paths import ROOT

CODE = """
from mmengine.registry import MODELS
from torch import nn

@MODELS.register_module(name='SN')
class Theirs(nn.Module):
    pass

import sn_mm
"""


class Theirs(nn.Module):
    pass


def test_a_name_that_is_taken_ends_in_one_sentence(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'SSN', Theirs)
    with pytest.raises(ImportError) as caught:
        register_norm('SSN', 'SSN2d')(SSN)
    text = str(caught.value)
    for part in ("'SSN' is already", f'{__name__}.Theirs', "'SSN2d'"):
        assert part in text
    assert MODELS.module_dict['SSN'] is Theirs


def test_importing_ends_in_that_sentence():
    run = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', CODE],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    for part in ("'SN' is already", '__main__.Theirs', "'SN2d'"):
        assert part in last


def test_a_layer_registers_again():
    assert register_norm('SSN', 'SSN2d')(SSN) is SSN
    assert MODELS.get('SSN2d') is SSN
