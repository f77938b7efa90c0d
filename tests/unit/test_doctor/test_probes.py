# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The script that probes run in, called in this process."""

import json

import pytest
import torch

import sn_mm
from sn_mm.doctor import probes


def test_each_probe_is_a_line_of_its_own(tmp_path):
    file = tmp_path / 'outcomes'
    probes.main(str(file), 'sn_mm', 'no_such_module', 'torch')
    ours, missing, theirs = map(json.loads, file.read_text().splitlines())
    assert ours['found']['version'] == sn_mm.__version__
    assert missing['error'].startswith('ModuleNotFoundError: No module named')
    assert theirs['found']['version'] == torch.__version__


def test_a_program_that_exits_is_an_error_like_others(tmp_path, monkeypatch):
    monkeypatch.setattr(
        probes, 'probe_torch', lambda: (_ for _ in ()).throw(SystemExit(3))
    )
    probes.main(str(tmp_path / 'o'), 'torch')
    (line,) = (tmp_path / 'o').read_text().splitlines()
    assert json.loads(line)['error'].startswith('SystemExit: 3')


def test_a_name_without_a_probe_is_imported():
    assert probes.run('json') == {'version': json.__version__}


@pytest.mark.parametrize(
    'error, text',
    [
        (ValueError('\n  first\nsecond'), 'ValueError: first'),
        (KeyError(), 'KeyError: '),
    ],
)
def test_errors_in_a_line(error, text):
    assert probes.describe(error) == text


def test_backend_and_data_of_this_machine(tmp_path, monkeypatch):
    found = probes.run('cpu_backend')
    assert found['chosen'] == sn_mm.backends(torch.rand(2, 8, 16, 16)).chosen
    monkeypatch.chdir(tmp_path)
    assert probes.run('data') == {}
    (tmp_path / 'data/coco/train2017').mkdir(parents=True)
    assert probes.run('data')['data/coco']['lacks'] == [
        'annotations',
        'val2017',
    ]
