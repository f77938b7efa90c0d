# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What the doctor says of environments that are made up, or made here."""

import sys

import pytest

from sn_mm.doctor import checks
from sn_mm.doctor.children import Outcome, probe
from sn_mm.doctor.findings import Finding, page


def failed(text: str) -> Outcome:
    return Outcome({}, text.splitlines()[0], text.partition(': ')[2])


def missing(name: str) -> Outcome:
    return failed(f"ModuleNotFoundError: No module named '{name}'")


@pytest.fixture
def installed(monkeypatch):
    """Distributions by name; a test changes them."""
    have = {
        'torch': '2.13.0',
        'numpy': '2.4.6',
        'setuptools': '80.9.0',
        'mmengine': '0.10.7',
        'mmcv-lite': '2.1.0',
        'mmdet': '3.3.0',
    }
    monkeypatch.setattr(
        checks,
        'versions',
        lambda names: {n: have[n] for n in names if n in have},
    )
    return have


@pytest.fixture
def seen():
    """Outcomes of an environment that fits; a test changes them."""
    return {
        'torch': Outcome({'version': '2.13.0', 'built_for': '', 'gpus': []}),
        'numpy': Outcome({'version': '2.4.6'}),
        'torchvision': missing('torchvision'),
        'pkg_resources': Outcome({}),
        'mmengine': Outcome({'version': '0.10.7'}),
        'mmcv': Outcome({'version': '2.1.0'}),
        'operators': Outcome({'compiled': False, 'cuda': '', 'names': ['a']}),
        'mmdet.apis': Outcome({}),
        'mmseg.apis': missing('mmseg'),
        'mmpretrain.apis': missing('mmpretrain'),
        'sn_mm': Outcome({'version': '1', 'file': '/site/sn_mm/__init__.py'}),
        'cpu_backend': Outcome({'chosen': 'native', 'why_not': {}}),
        'gpu_backend': failed('RuntimeError: no GPU'),
        'triton': missing('triton'),
        'checkpoints': Outcome({'folder': '/nowhere'}),
        'data': Outcome({}),
    }


@pytest.fixture
def examine(seen, installed, monkeypatch):
    """The page's findings, by name, of what is seen and installed."""
    monkeypatch.setattr(checks, 'probe', lambda names: seen)
    monkeypatch.delenv('SN_MM_CHECKPOINTS', raising=False)

    def call(**options) -> dict[str, Finding]:
        return {f.name: f for f in checks.examine(**options)}

    return call


def misfits(found: dict[str, Finding]) -> set[str]:
    return {name for name, f in found.items() if f.state == 'misfit'}


def test_what_fits_has_no_misfit(examine):
    assert not misfits(examine())


def test_both_mmcvs_at_once(examine, installed):
    installed['mmcv'] = '2.2.0'
    finding = examine()['mmcv']
    assert finding.state == 'misfit' and 'overwriting' in finding.text
    assert 'uninstall -y mmcv mmcv-lite' in finding.fix
    assert 'mmcv-lite==2.1.0' in finding.fix


def test_mmcv_that_mmdet_refuses(examine, seen, installed):
    installed['mmcv'] = '2.2.0'
    del installed['mmcv-lite']
    text = (
        'AssertionError: MMCV==2.2.0 is used but incompatible. Please '
        'install mmcv>=2.0.0rc4, <2.2.0.'
    )
    seen['mmdet.apis'] = failed(text)
    found = examine()
    assert misfits(found) == {'mmcv', 'mmdet'}
    assert 'mmdet refuses it (mmcv>=2.0.0rc4, <2.2.0)' in found['mmcv'].text
    assert 'mmcv-lite==2.1.0' in found['mmcv'].fix


def test_lite_without_operators_at_the_start(examine, seen):
    seen['operators'] = seen['mmdet.apis'] = missing('mmcv._ext')
    found = examine()
    assert misfits(found) == {'operators', 'mmdet'}
    assert '--install-ops' in found['operators'].fix


def test_operators_of_another_torch(examine, seen):
    seen['operators'] = failed('ImportError: undefined symbol: _ZN2at4')
    finding = examine()['operators']
    assert finding.state == 'misfit' and 'another torch' in finding.fix


def test_operators_without_cuda_beside_a_gpu(examine, seen):
    compiled = {'compiled': True, 'cuda': 'not available', 'names': []}
    seen['operators'] = Outcome(compiled)
    assert not misfits(examine())
    seen['torch'].found['gpus'].append('a GPU')
    assert misfits(examine()) == {'operators'}


def test_setuptools_without_pkg_resources(examine, seen, installed):
    installed['setuptools'] = '82.0.0'
    seen['pkg_resources'] = missing('pkg_resources')
    finding = examine()['setuptools']
    assert finding.state == 'misfit' and 'setuptools<81' in finding.fix


def test_numpy_that_torch_was_not_built_for(examine, seen):
    seen['numpy'] = failed('RuntimeError: Numpy is not available')
    finding = examine()['numpy']
    assert finding.state == 'misfit' and 'numpy<2' in finding.fix


def test_a_numpy_that_is_broken_itself(examine, seen):
    seen['numpy'] = failed('ImportError: libopenblas.so: cannot open')
    finding = examine()['numpy']
    assert 'libopenblas' in finding.text and '<2' not in finding.fix
    assert finding.fix.endswith('--force-reinstall --no-deps numpy')


def test_what_fails_for_the_reason_above_has_no_fix_of_its_own(examine, seen):
    """A torch that does not load takes all with it; it alone is mended."""
    for name in ('torch', 'numpy', 'torchvision', 'mmcv', 'operators'):
        seen[name] = failed('ImportError: libcudart.so.12: cannot open')
    seen['mmdet.apis'] = failed('ImportError: libcudart.so.12: cannot open')
    seen['sn_mm'] = failed('ImportError: libcudart.so.12: cannot open')
    found = examine()
    assert 'reinstall --no-deps torch' in found['torch'].fix
    fixes = {f.fix for name, f in found.items() if name != 'torch'}
    assert fixes == {'', 'See above.'}
    assert found['numpy'] == Finding('numpy', '2.4.6')
    assert found['torchvision'].state == 'note'
    seen['mmcv'] = Outcome({'version': '2.1.0'})
    assert examine()['operators'].fix == 'See above.'


def test_a_name_that_is_taken(examine, seen):
    seen['sn_mm'] = failed(
        'KeyError: "SN is already registered in model at other.layers"'
    )
    finding = examine()['sn_mm']
    assert finding.state == 'misfit'
    assert 'other.layers' in finding.text and 'SN' in finding.text
    assert 'custom_imports' in finding.fix


def test_toolboxes_that_are_needed(examine):
    assert not misfits(examine(folders=False))
    found = examine(needed=('mmdet', 'mmseg'), folders=False)
    assert misfits(found) == {'mmseg'}
    assert 'mmsegmentation' in found['mmseg'].fix
    assert 'data' not in found and 'cache' not in found


def test_a_data_set_that_is_not_whole(examine, seen):
    lacks = {'lacks': ['val2017'], 'layout': 'COCO 2017 is expected in ...'}
    seen['data'] = Outcome({'data/coco': lacks})
    finding = examine()['data']
    assert finding.state == 'misfit' and 'val2017' in finding.text
    assert finding.fix.startswith('COCO 2017')


def test_kernels_that_were_not_compiled_are_a_note(examine, seen):
    why = {'native': 'no C compiler'}
    seen['cpu_backend'] = Outcome({'chosen': 'aten', 'why_not': why})
    finding = examine()['C kernels']
    assert finding.state == 'note' and 'no C compiler' in finding.text


def test_page_marks_misfits_and_puts_fixes_below():
    text = page(
        [
            Finding('torch', '2.13.0'),
            Finding('mmcv', 'is wrong', 'misfit', 'pip install it'),
        ]
    )
    first, second, third, *_, last = text.splitlines()
    assert first.split() == ['ok', 'torch', '2.13.0']
    assert second.split()[:2] == ['!!', 'mmcv']
    assert third.strip() == 'pip install it' and third.startswith(' ')
    assert last == 'To be mended: mmcv.'
    assert page([Finding('torch', '2')]).endswith('fits together.')


def test_probes_after_a_crash_are_made(tmp_path, monkeypatch):
    (tmp_path / 'crashes.py').write_text('import os; os._exit(11)')
    (tmp_path / 'fails.py').write_text('raise ValueError("first\\nsecond")')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = probe(['json', 'crashes', 'fails', 'none_such'])
    assert found['json'].error == '' and found['json'].found['version']
    assert 'status 11' in found['crashes'].error
    assert found['fails'].error == 'ValueError: first'
    assert 'second' in found['fails'].message
    assert checks.missing_module(found['none_such']) == 'none_such'


def test_an_interpreter_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/no/such/python')
    found = probe(['json', 'torch'])
    assert set(found) == {'json', 'torch'}
    assert '/no/such/python cannot be started' in found['json'].error


def test_a_user_without_a_home_has_no_cache(monkeypatch, tmp_path):
    def none():  # as Python 3.9 does; later ones raise RuntimeError
        raise KeyError(0)

    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(checks.Path, 'home', none)
    monkeypatch.setattr(checks.os.path, 'expanduser', lambda path: path)
    finding = checks.check_cache()
    assert finding.state == 'misfit' and 'no home' in finding.text
    assert 'XDG_CACHE_HOME' in finding.fix
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert checks.check_cache().state == 'ok'
