# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""What an installation brings that is no editable one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT


def run(*command: object, cwd: Path = ROOT, **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """The source distribution, of a copy without git."""
    copy = tmp_path_factory.mktemp('copy') / 'sn_mm'
    skip = shutil.ignore_patterns(
        '.*', 'data', 'work_dirs', 'build', 'dist', '*.egg-info', '__pycache__'
    )
    shutil.copytree(ROOT, copy, ignore=skip)
    out = tmp_path_factory.mktemp('sdist')
    run(sys.executable, 'setup.py', '-q', 'sdist', '-d', out, cwd=copy)
    return next(out.iterdir())


@pytest.fixture(scope='module')
def wheel(sdist, tmp_path_factory):
    """The wheel that pip builds from the source distribution alone."""
    folder = tmp_path_factory.mktemp('unpacked')
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    out = tmp_path_factory.mktemp('wheel')
    run(
        *(sys.executable, 'setup.py', '-q', 'bdist_wheel', '-d', out),
        cwd=next(folder.iterdir()),
    )
    return next(out.iterdir())


@pytest.fixture(scope='module')
def site(wheel, tmp_path_factory):
    """A folder that the wheel was unpacked into, as pip does."""
    folder = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def python(site, tmp_path):
    """Runs Python in an empty folder, with the installed sn_mm."""

    def call(*words: object) -> str:
        path = str(site)
        return run(
            *(sys.executable, '-W', 'ignore', *words),
            cwd=tmp_path,
            PYTHONPATH=path,
        )

    return call


def test_sources_of_the_kernels_are_there(site):
    def names(root):
        return {
            p.relative_to(root).as_posix()
            for suffix in ('*.c', '*.h')
            for p in root.rglob(suffix)
        }

    assert names(site / 'sn_mm') == names(ROOT / 'sn_mm') != set()


def test_every_module_is_there(site):
    wanted = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / 'sn_mm').rglob('*.py')
    }
    have = {p.relative_to(site).as_posix() for p in site.rglob('*.py')}
    assert wanted <= have
    assert 'sn_mm_ops.py' in have
    assert not any(name.startswith(('tests/', 'tools/')) for name in have)


def test_mim_finds_every_config(site):
    mim = site / 'sn_mm' / '.mim'
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


def test_it_is_imported_and_its_configs_are_bases(python, site):
    base = 'sn_mm::demo/faster-rcnn_r18_fpn_sn-all_demo.py'
    code = (
        'import sn_mm; from mmengine import Config; '
        'from mmengine.registry import MODELS; '
        f'open("config.py", "w").write("_base_ = {base!r}"); '
        "Config.fromfile('config.py').model.backbone.norm_cfg.type.strip(); "
        'print(sn_mm.__file__, MODELS.get("SyncSN").__module__)'
    )
    file, module = python('-c', code).split()
    assert Path(file).is_relative_to(site) and module == 'sn_mm.layers.sync'


def test_its_tools_run(python, site):
    tool = site / 'sn_mm' / '.mim' / 'tools' / 'train.py'
    assert 'CONFIG' in python(tool, '--help').upper()


def test_layers_do_without_mmcv_and_toolboxes(python):
    code = (
        'import sys\n'
        'class Refuse:\n'
        '    @staticmethod\n'
        '    def find_spec(name, path=None, target=None):\n'
        '        if name.split(".")[0] in ("mmcv", "mmdet", "mmseg"):\n'
        '            raise ModuleNotFoundError(name)\n'
        'sys.meta_path.insert(0, Refuse)\n'
        'import sn_mm, torch\n'
        'x = torch.randn(2, 8, 5, 5, requires_grad=True)\n'
        'for name in ("SN", "SSN", "SyncSN"):\n'
        '    getattr(sn_mm, name)(8)(x).sum().backward()\n'
        # these two take longer to import than all of sn_mm
        'print({"mmcv", "matplotlib"} & set(sys.modules))'
    )
    assert python('-c', code) == 'set()'


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith('/METADATA'))
        return message_from_string(archive.read(name).decode())


def requirements(metadata, extra: str | None) -> list[str]:
    found = []
    for text in metadata.get_all('Requires-Dist'):
        name, _, marker = text.replace(' ', '').partition(';')
        named = marker.replace("'", '"').partition('extra==')[2].strip('"')
        if named == (extra or ''):
            found.append(name)
    return found


def test_layers_need_torch_and_mmengine(metadata):
    names = sorted(requirements(metadata, None))
    assert names == [
        'mmengine>=0.10.0',
        'numpy',
        'setuptools<81',
        'torch>=2.0',
    ]


def test_which_mmcv_is_the_users_choice(metadata):
    for extra in ('det', 'seg', 'pretrain'):
        found = requirements(metadata, extra)
        assert found and not any(n.startswith('mmcv') for n in found)
    (lite,) = requirements(metadata, 'lite')
    (full,) = requirements(metadata, 'full')
    assert lite.startswith('mmcv-lite') and full.startswith('mmcv')
    for name in (lite, full):  # in the order that setuptools likes
        assert '>=2.0' in name and '<2.2' in name


def test_the_doctor_has_a_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            n for n in archive.namelist() if n.endswith('/entry_points.txt')
        )
        assert b'sn-mm-doctor = sn_mm.doctor.' in archive.read(name)
