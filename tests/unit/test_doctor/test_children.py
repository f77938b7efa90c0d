# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Probes in processes of their own, of which some die."""

from sn_mm.doctor import children

DIES = """
import os, json, sys
file, *names = sys.argv[1:]
for name in names:
    if name == 'dies':
        os._exit(7)
    with open(file, 'a') as out:
        out.write(json.dumps({'probe': name, 'found': {'of': name}}) + '\\n')
"""


def test_those_after_a_crash_run_too(tmp_path, monkeypatch):
    (tmp_path / 'probes.py').write_text(DIES)
    monkeypatch.setattr(children, '__file__', str(tmp_path / 'children.py'))
    found = children.probe(['a', 'dies', 'b', 'dies'])
    assert found['a'] == children.Outcome({'of': 'a'})
    assert found['b'] == children.Outcome({'of': 'b'})
    assert found['dies'].found == {}
    assert found['dies'].error == 'its import ended Python (status 7)'


def test_one_that_does_not_end(tmp_path, monkeypatch):
    (tmp_path / 'probes.py').write_text('import time; time.sleep(60)')
    monkeypatch.setattr(children, '__file__', str(tmp_path / 'children.py'))
    monkeypatch.setattr(children, '_SECONDS', 0.5)
    (outcome,) = children.probe(['slow']).values()
    assert outcome.error == 'its import did not end within 0.5 s'


def test_of_python_itself():
    """The real script, from which nothing of this process is seen."""
    found = children.probe(['json', 'no_such_module'])
    assert found['json'].error == '' and found['json'].found['version']
    assert 'ModuleNotFoundError' in found['no_such_module'].error
    assert 'no_such_module' in found['no_such_module'].message
