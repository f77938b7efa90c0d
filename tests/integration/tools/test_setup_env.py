# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The shell functions of tools/setup_env.sh and what it refuses, offline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='needs bash')


def shell(
    code: str, path: Path | None = None, **variables: object
) -> subprocess.CompletedProcess:
    """Runs code after setup_env.sh, with a folder put ahead of PATH."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('SN_MM_', 'CXX'))
    }
    environment.update({k: str(v) for k, v in variables.items()})
    if path is not None:
        environment['PATH'] = f'{path}{os.pathsep}{environment["PATH"]}'
    code = f'set -euo pipefail; source "$1"; {code}'
    return subprocess.run(
        ['bash', '-c', code, 'shell', ROOT / 'tools' / 'setup_env.sh'],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def output(code: str, path: Path | None = None, **variables: object) -> str:
    result = shell(code, path, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def error(code: str, path: Path | None = None, **variables: object) -> str:
    result = shell(code, path, **variables)
    assert result.returncode == 1
    # one error, and no shell trace around it
    lines = result.stderr.strip().splitlines()
    assert lines[0].startswith('error: ')
    assert result.stderr.count('error: ') == 1
    return result.stderr


def write_command(path: Path, body: str) -> Path:
    """Writes an executable shell script, standing in for a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{body}\n')
    path.chmod(0o755)
    return path


def python_stub(path: Path, version: str, venv: bool = True) -> Path:
    """Writes a command that answers as a Python of a version does."""
    return write_command(
        path,
        f'case $2 in *ensurepip*) {"" if venv else "exit 1"};; esac\n'
        f'echo {version}',
    )


# --- which interpreter

OFFICIAL = "find_python official '3.11 3.12 3.10 3.13 3.9'"
CLASSIC = "find_python classic '3.10 3.9 3.11'"


def test_refuses_unknown_stack_and_unknown_mmcv():
    message = error('setup_env', SN_MM_STACK='nightly')
    assert "'nightly'" in message and 'official, onedl or classic' in message
    message = error('setup_env', SN_MM_MMCV='full')
    assert "'full'" in message and 'lite or compiled' in message


def test_refuses_python_that_does_not_run(tmp_path):
    shim = write_command(tmp_path / 'python3.10', 'exit 127')
    message = error(OFFICIAL, SN_MM_PYTHON=shim)
    assert f'SN_MM_PYTHON={shim} does not run' in message


@pytest.mark.parametrize('version', ['3.8', '3.14'])
def test_refuses_python_out_of_range(tmp_path, version):
    python = python_stub(tmp_path / 'python', version)
    message = error(OFFICIAL, SN_MM_PYTHON=python)
    assert f'is Python {version}' in message and '3.10' in message


def test_refuses_python_without_venv(tmp_path):
    python = python_stub(tmp_path / 'python', '3.11', venv=False)
    assert 'python3-venv' in error(OFFICIAL, SN_MM_PYTHON=python)


def test_passes_over_pythons_that_will_not_do(tmp_path):
    # the shim of a version that is not active, one too new, one without venv
    write_command(tmp_path / 'python3', 'exit 127')
    python_stub(tmp_path / 'python3.11', '3.14')
    python_stub(tmp_path / 'python3.12', '3.12', venv=False)
    python_stub(tmp_path / 'python3.10', '3.10')
    found = output(
        f'PATH=$PYTHONS; {OFFICIAL}', PYTHONS=tmp_path, PYENV_ROOT=tmp_path
    )
    assert found == 'python3.10'


def test_finds_pythons_of_pyenv(tmp_path):
    python = tmp_path / 'a b' / 'versions' / '3.10.2' / 'bin' / 'python'
    python_stub(python, '3.10')
    # what PATH has is another version, and a shim that does not run
    python_stub(tmp_path / 'python3.11', '3.14')
    write_command(tmp_path / 'python3.10', 'exit 127')
    found = output(
        f'PATH=$PYTHONS; {CLASSIC}',
        PYTHONS=tmp_path,
        PYENV_ROOT=tmp_path / 'a b',
    )
    assert found == str(python)


def test_no_python_is_one_clear_error(tmp_path):
    message = error(
        f'PATH=$EMPTY; {OFFICIAL}', EMPTY=tmp_path, PYENV_ROOT=tmp_path
    )
    assert '3.11 3.12 3.10' in message and 'SN_MM_PYTHON' in message


# --- the key that says whether an environment is still good


def env_key(words: str = 'official lite', **variables: object) -> str:
    return output(f'env_key "$BASE" {words}', BASE=sys.executable, **variables)


def test_env_key_follows_what_is_installed():
    keys = [
        env_key(),
        env_key('official compiled'),
        env_key('onedl lite'),
        env_key(SN_MM_TORCH_PIP_ARGS='--index-url https://example.org'),
    ]
    assert keys[0] == env_key()
    assert len(set(keys)) == 4


def test_env_key_follows_requirements_and_place(tmp_path):
    files = tmp_path / 'requirements'
    (files / 'official').mkdir(parents=True)
    (files / 'libraries.txt').write_text('numpy==1.0\n')
    (files / 'official' / 'torch.txt').write_text('torch==1.0\n')
    code = 'SN_MM_ROOT=$COPY; env_key "$BASE" official lite'
    variables = {'COPY': tmp_path, 'BASE': sys.executable}
    first = output(code, **variables)
    (files / 'libraries.txt').write_text('numpy==2.0\n')
    second = output(code, **variables)
    (files / 'official' / 'torch.txt').write_text('torch==2.0\n')
    third = output(code, **variables)
    assert len({first, second, third, env_key()}) == 4


def test_lock_of_a_process_that_is_gone_counts_for_nothing(tmp_path):
    gone = subprocess.Popen(['true'])
    gone.wait()
    (tmp_path / 'env.lock').mkdir()
    (tmp_path / 'env.lock' / 'pid').write_text(f'{gone.pid}\n')
    code = 'lock_env "$VENV"; cat "$VENV.lock/pid"; echo $$'
    owner, shell_pid = output(code, VENV=tmp_path / 'env').split()
    assert owner == shell_pid
    assert list(tmp_path.iterdir()) == []


def test_lock_is_taken_away_whatever_its_place_is_called(tmp_path):
    place = tmp_path / "o'hara's \u00fc $HOME"
    place.mkdir()
    output('lock_env "$VENV"', VENV=place / 'env')
    assert list(place.iterdir()) == []


def test_lock_that_cannot_be_written_is_taken_away(tmp_path):
    """Else the next set-up would wait for it for ever."""
    code = (
        'mkdir() { command mkdir "$@" && command mkdir "$1/pid"; }; '
        'lock_env "$VENV"; echo locked'
    )
    result = shell(code, VENV=tmp_path / 'env')
    assert result.returncode == 1 and 'locked' not in result.stdout
    assert list(tmp_path.iterdir()) == []


# --- making one


@pytest.mark.parametrize('stack', ['official', 'onedl', 'classic'])
def test_every_set_pins_both_mmcvs(stack):
    folder = ROOT / 'requirements' / stack
    lite = (folder / 'mmcv-lite.txt').read_text().strip()
    full = (folder / 'mmcv.txt').read_text().strip()
    assert lite.split('==')[1] == full.split('==')[1]
    assert full.split('==')[0].endswith('mmcv')


@pytest.mark.parametrize('stack', ['official', 'onedl', 'classic'])
def test_what_is_installed_and_in_which_order(tmp_path, stack):
    """Every call of pip, of a Python that only writes them down."""
    log = tmp_path / 'log'
    recorder = tmp_path / 'recorder'
    write_command(
        recorder,
        f'echo "$MMCV_WITH_OPS $@" >>"{log}"\n'
        f'case $2 in venv) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";; esac',
    )
    code = f'make_env "$BASE" "$VENV" {stack} lite'
    output(
        code,
        BASE=recorder,
        VENV=tmp_path / 'venv',
        SN_MM_TORCH_PIP_ARGS='--index-url https://example.org',
    )
    lines = log.read_text().splitlines()
    files = [line.rpartition('/')[2] for line in lines]
    # nothing is compiled: mmcv before the torch that it would compile for
    assert files[1:5] == [
        'libraries.txt',
        'mmcv-lite.txt',
        'torch.txt',
        'toolboxes.txt',
    ]
    assert lines[2].startswith('0 ') and '--no-cache-dir' in lines[2]
    assert '--index-url https://example.org -r' in lines[3]
    assert '--no-deps' not in lines[3] and '--no-deps' in lines[1]
    assert lines[5].endswith(f'-e {ROOT}')
    assert lines[6].endswith('-m sn_mm.doctor --install-ops')


def test_failing_step_is_named_and_ends():
    result = shell(
        'step "fetching" sh -c "echo no route >&2; exit 7"; echo on'
    )
    assert result.returncode == 1
    assert 'no route' in result.stderr
    assert 'error: fetching: failed' in result.stderr
    assert result.stdout.strip() == 'fetching'


def test_missing_compiler_is_told(tmp_path):
    result = shell(
        'source "$SN_MM_ROOT/tools/build_mmcv.sh"; '
        'install_compiled_mmcv "$BASE" mmcv==2.1.0',
        BASE=sys.executable,
        CXX='no-such-compiler',
        XDG_CACHE_HOME=tmp_path,
    )
    assert result.returncode == 1 and 'apt install g++' in result.stderr
    assert not list(tmp_path.iterdir())


def test_compiled_mmcv_comes_from_the_cache(tmp_path):
    """One wheel is compiled, then found; compiling is stood in for."""
    log = tmp_path / 'log'
    python = write_command(
        tmp_path / 'python',
        f'case "$*" in *" wheel "*) echo wheel >>"{log}"; '
        'while [ "$1" != --wheel-dir ]; do shift; done; touch "$2/m.whl";; '
        f'*" install "*) echo "install $*" >>"{log}";; '
        '*get_path*) echo /usr/include;; '
        '-) echo "FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=-1";; '
        '*) echo 2.13.0-cpython-311-linux;; esac',
    )
    code = (
        'source "$SN_MM_ROOT/tools/build_mmcv.sh"; '
        'install_compiled_mmcv "$BASE" mmcv==2.1.0'
    )
    cxx = write_command(tmp_path / 'c++', 'exit 0')
    for _ in range(2):
        output(code, BASE=python, CXX=cxx, XDG_CACHE_HOME=tmp_path / 'a b')
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == [
        'wheel',
        'install',
        'install',
    ]
    wheels = list((tmp_path / 'a b').rglob('*.whl'))
    assert len(wheels) == 1 and str(wheels[0]) in lines[1]


# --- an environment that exists


def test_given_environment_may_be_folder_interpreter_or_current(tmp_path):
    python = write_command(
        tmp_path / 'my env' / 'bin' / 'python',
        'case $1 in -c) echo "$0";; *) exit 0;; esac',
    )
    code = 'setup_env; echo "$PYTHON"'
    for value in (tmp_path / 'my env', python, 'current'):
        assert output(code, python.parent, SN_MM_ENV=value) == str(python)


def test_refuses_given_environment_that_is_none(tmp_path):
    message = error('setup_env', SN_MM_ENV=tmp_path)
    assert f'SN_MM_ENV={tmp_path} is no environment' in message


def test_what_given_environment_lacks_is_on_the_doctors_page(tmp_path):
    venv = tmp_path / 'venv'
    command = [sys.executable, '-m', 'venv', '--without-pip', venv]
    subprocess.run(command, check=True)
    result = shell('setup_env', SN_MM_ENV=venv)
    assert result.returncode == 1
    assert 'Nothing was installed' in ' '.join(result.stderr.split())
    for name in ('torch', 'mmdet', 'mmseg'):
        assert f'!! {name}' in result.stderr


# --- the commands


@pytest.mark.parametrize('tool', ['setup_env.sh', 'demo.sh', 'test.sh'])
def test_help_needs_no_environment(tool):
    result = subprocess.run(
        ['bash', ROOT / 'tools' / tool, '--help'],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(f'Usage: bash tools/{tool}')
    assert 'set -euo' not in result.stdout


@pytest.mark.parametrize('tool', ['setup_env.sh', 'demo.sh'])
def test_unknown_argument_is_refused(tool):
    result = subprocess.run(
        ['bash', ROOT / 'tools' / tool, '--gpu'],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert 'unknown argument: --gpu' in result.stderr
