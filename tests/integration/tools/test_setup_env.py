# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The shell functions of tools/setup_env.sh and what it refuses, offline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

CPYTHON = f'cp{sys.version_info[0]}{sys.version_info[1]}'

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='needs bash')


def shell(
    code: str, path: Path | None = None, **variables: object
) -> subprocess.CompletedProcess:
    """Runs code after setup_env.sh, with a folder put ahead of PATH."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('SN_MM_', 'CUDA_', 'TORCH_CUDA', 'CXX'))
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
        f'case $2 in *ensurepip*) exit {0 if venv else 1};; esac\n'
        f'echo {version}',
    )


def gpu_stubs(folder: Path, nvcc: str | None) -> dict:
    """Puts a GPU, and nvcc of a release, into a folder for PATH."""
    write_command(
        folder / 'bin' / 'nvidia-smi',
        'case $1 in -L) echo "GPU 0: A100";; *) echo 8.0; echo 8.0;; esac',
    )
    if nvcc is None:
        return {'CUDA_HOME': folder / 'none'}
    write_command(
        folder / 'bin' / 'nvcc',
        f'echo "Cuda compilation tools, release {nvcc}, V{nvcc}.1"',
    )
    (folder / 'include').mkdir(exist_ok=True)
    (folder / 'include' / 'cuda_runtime.h').touch()
    return {'CUDA_HOME': folder}


def torch_stub(path: Path, cuda: str) -> Path:
    """Writes a Python whose torch was built with a version of CUDA."""
    return write_command(path, f'echo {cuda}')


# --- which interpreter


def test_refuses_unknown_stack():
    message = error('find_python nightly')
    assert "'nightly'" in message and 'official, onedl or classic' in message


def test_refuses_python_that_does_not_run(tmp_path):
    shim = write_command(tmp_path / 'python3.10', 'exit 127')
    message = error('find_python official', SN_MM_PYTHON=shim)
    assert f'{shim} does not run' in message


@pytest.mark.parametrize(
    'stack, version',
    [('official', '3.8'), ('official', '3.13'), ('onedl', '3.9')],
)
def test_refuses_python_out_of_range(tmp_path, stack, version):
    python = python_stub(tmp_path / 'python', version)
    message = error(f'find_python {stack}', SN_MM_PYTHON=python)
    assert f'is Python {version}' in message and '3.10' in message


def test_refuses_python_without_venv(tmp_path):
    python = python_stub(tmp_path / 'python', '3.11', venv=False)
    message = error('find_python official', SN_MM_PYTHON=python)
    assert 'python3.11-venv' in message


def test_passes_over_pythons_that_will_not_do(tmp_path):
    # the shim of a version that is not active, one too new, one without venv
    write_command(tmp_path / 'python3', 'exit 127')
    python_stub(tmp_path / 'python3.11', '3.13')
    python_stub(tmp_path / 'python3.12', '3.12', venv=False)
    good = python_stub(tmp_path / 'python3.10', '3.10')
    found = output(
        'PATH=$PYTHONS; find_python official',
        PYTHONS=tmp_path,
        PYENV_ROOT=tmp_path,
    )
    assert found == str(good)


def test_classic_looks_for_its_own_python_first(tmp_path):
    python_stub(tmp_path / 'python3', '3.11')
    python_stub(tmp_path / 'python3.9', '3.9')
    python_stub(tmp_path / 'python3.10', '3.10')
    both = 'PATH=$PYTHONS; find_python classic; find_python official'
    found = output(both, PYTHONS=tmp_path, PYENV_ROOT=tmp_path).splitlines()
    assert [Path(p).name for p in found] == ['python3.10', 'python3']


def test_finds_pythons_of_pyenv(tmp_path):
    python = tmp_path / 'a b' / 'versions' / '3.10.2' / 'bin' / 'python'
    python_stub(python, '3.10')
    # what PATH has is another version, and a shim that does not run
    python_stub(tmp_path / 'python3.11', '3.11')
    write_command(tmp_path / 'python3.10', 'exit 127')
    found = output(
        'PATH=$PYTHONS; find_python classic',
        PYTHONS=tmp_path,
        PYENV_ROOT=tmp_path / 'a b',
    )
    assert found == str(python)


def test_no_python_is_one_clear_error(tmp_path):
    message = error(
        'PATH=$EMPTY; find_python onedl', EMPTY=tmp_path, PYENV_ROOT=tmp_path
    )
    assert '3.11 3.12 3.10' in message and 'SN_MM_PYTHON' in message


# --- the key that says whether an environment is still good


def env_key(stack: str = 'official', **variables: object) -> str:
    key = output(f'env_key {stack} "$BASE"', BASE=sys.executable, **variables)
    assert len(key) == 64
    return key


def test_env_key_follows_what_is_installed():
    keys = [
        env_key(),
        env_key('onedl'),
        env_key(SN_MM_TORCH_PIP_ARGS='--index-url https://example.org'),
    ]
    assert keys[0] == env_key()
    assert len(set(keys)) == 3


def test_env_key_follows_requirements_and_place(tmp_path):
    files = tmp_path / 'requirements'
    (files / 'official').mkdir(parents=True)
    (files / 'libraries.txt').write_text('numpy==1.0\n')
    (files / 'official' / 'torch.txt').write_text('torch==1.0\n')
    code = 'SN_MM_ROOT=$COPY; env_key official "$BASE"'
    variables = {'COPY': tmp_path, 'BASE': sys.executable}
    first = output(code, **variables)
    (files / 'libraries.txt').write_text('numpy==2.0\n')
    second = output(code, **variables)
    (files / 'official' / 'torch.txt').write_text('torch==2.0\n')
    third = output(code, **variables)
    assert len({first, second, third, env_key()}) == 4


def test_env_record_round_trip(tmp_path):
    code = (
        'write_env_record "$VENV" key=1 mmcv=cpu; '
        'env_record "$VENV" mmcv; env_record "$VENV" none; '
        'env_record "$VENV/none" key'
    )
    assert output(code, VENV=tmp_path) == 'cpu'
    assert [p.name for p in tmp_path.iterdir()] == ['sn_mm.env']


def test_lock_of_a_process_that_is_gone_counts_for_nothing(tmp_path):
    gone = subprocess.Popen(['true'])
    gone.wait()
    (tmp_path / 'env.lock').mkdir()
    (tmp_path / 'env.lock' / 'pid').write_text(f'{gone.pid}\n')
    code = 'lock_env "$VENV"; cat "$VENV.lock/pid"; echo $$; clean_up'
    owner, shell_pid = output(code, VENV=tmp_path / 'env').split()
    assert owner == shell_pid
    assert list(tmp_path.iterdir()) == []


# --- steps


def test_failing_step_shows_its_log_and_ends(tmp_path):
    result = shell(
        'log=$LOG; step "fetching" sh -c "echo no route; exit 7"; echo on',
        LOG=tmp_path / 'log',
    )
    assert result.returncode == 1
    assert 'no route' in result.stderr
    assert 'error: fetching: failed' in result.stderr
    assert result.stdout.strip() == 'fetching'


# --- mmcv


def test_wheel_key_names_all_that_must_agree():
    code = (
        'wheel_key mmcv==2.1.0 2.13.0+cpu cp311-linux_x86_64 cpu; '
        'wheel_key mmcv==2.1.0 2.1.2+cu121 cp310-linux_x86_64 cu12.1-sm8.0'
    )
    assert output(code).splitlines() == [
        'mmcv-2.1.0-torch2.13.0+cpu-cp311-linux_x86_64',
        'mmcv-2.1.0-torch2.1.2+cu121-cp310-linux_x86_64-cu12.1-sm8.0',
    ]


def test_platform_tag_is_this_pythons():
    tag = output('platform_tag "$BASE"', BASE=sys.executable)
    assert tag.startswith(f'{CPYTHON}-')
    assert '-' not in tag.split('-', 1)[1] and '.' not in tag


def test_cached_wheel_is_found_in_a_folder_with_spaces(tmp_path):
    wheel = tmp_path / 'a cache' / 'sn_mm' / 'wheels' / 'key' / 'mmcv.whl'
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    code = 'cached_wheel key; cached_wheel other'
    assert output(code, XDG_CACHE_HOME=tmp_path / 'a cache') == str(wheel)


@pytest.mark.parametrize('stack', ['official', 'onedl', 'classic'])
def test_every_set_pins_one_mmcv(stack):
    name, version = output(f'mmcv_requirement {stack}').split('==')
    assert name.endswith('mmcv') and version[0] == '2'


def test_missing_compiler_is_told_before_anything_is_installed(tmp_path):
    message = error(
        'check_compiler_early official "$BASE"',
        BASE=sys.executable,
        CXX='no-such-compiler',
        XDG_CACHE_HOME=tmp_path,
    )
    assert 'no-such-compiler' in message and 'apt install g++' in message


def test_cached_wheel_needs_no_compiler(tmp_path):
    code = (
        'folder=$SN_MM_WHEELS/$(wheel_key "$(mmcv_requirement official)" '
        '9.9 "$(platform_tag "$BASE")" cpu); '
        'mkdir -p "$folder"; touch "$folder/mmcv.whl"; '
        'check_compiler_early official "$BASE"'
    )
    output(
        code,
        BASE=sys.executable,
        CXX='no-such-compiler',
        XDG_CACHE_HOME=tmp_path,
    )


# --- GPU and CUDA compiler


def test_no_gpu_means_operators_for_the_cpu(tmp_path):
    write_command(tmp_path / 'nvidia-smi', 'exit 9')
    assert output('mmcv_kind python', tmp_path) == 'cpu'


@pytest.mark.parametrize(
    'nvcc, torch_cuda, kind',
    [
        ('12.4', '12.1', 'cu12.4-sm8.0'),
        ('11.8', '12.1', 'cpu'),
        ('12.4', '', 'cpu'),
    ],
)
def test_gpu_operators_need_torchs_major_cuda(
    tmp_path, nvcc, torch_cuda, kind
):
    python = torch_stub(tmp_path / 'python', torch_cuda)
    variables = gpu_stubs(tmp_path, nvcc)
    code = 'mmcv_kind "$BASE"'
    found = output(code, tmp_path / 'bin', BASE=python, **variables)
    assert found == kind


def test_cuda_home_passes_over_a_wrapper_without_headers(tmp_path):
    write_command(tmp_path / 'bin' / 'nvcc', 'echo release 1.0')
    found = shell('cuda_home', tmp_path / 'bin').stdout.strip()
    assert found != str(tmp_path)


def test_cpu_only_operators_are_explained():
    note = output('explain_cpu_only python')
    assert 'CPU-only' in note and 'RoIAlign' in note
    assert 'mim install' in note and 'torch==2.1.2' in note
    assert 'SN_MM_ENV=current' in note


# --- an environment that exists


def test_given_environment_may_be_folder_or_interpreter(tmp_path):
    python = python_stub(tmp_path / 'my env' / 'bin' / 'python', '3.10')
    for value in (tmp_path / 'my env', python):
        assert output('given_python "$ENV"', ENV=value) == str(python)


def test_current_is_the_python_on_path(tmp_path):
    python = python_stub(tmp_path / 'python', '3.12')
    assert output('given_python current', tmp_path) == str(python)


def test_refuses_given_environment_that_is_none(tmp_path):
    message = error('given_python "$ENV"', ENV=tmp_path)
    assert str(tmp_path / 'bin' / 'python') in message


def test_refuses_old_python_in_given_environment(tmp_path):
    python = python_stub(tmp_path / 'python', '3.8')
    assert 'is Python 3.8' in error('given_python "$ENV"', ENV=python)


def test_this_environment_is_good_enough():
    output('check_given_env "$BASE"', BASE=sys.executable)


@pytest.mark.parametrize(
    'modules, said',
    [
        ({}, ['torch is not installed', 'unset it']),
        (
            {'torch': ''},
            ['mmcv.ops: missing', 'mim install', 'mmdet==3.3.0'],
        ),
    ],
)
def test_names_what_given_environment_lacks(tmp_path, modules, said):
    for name, body in modules.items():
        (tmp_path / f'{name}.py').write_text(body)
    # -S leaves site-packages out: an environment with only these modules
    python = write_command(
        tmp_path / 'python',
        f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" -S "$@"',
    )
    message = error('use_given_env "$ENV"', ENV=python)
    assert 'Nothing was installed' in message
    for words in said:
        assert words in message


def test_mmcv_without_operators_is_told_apart(tmp_path):
    # what mmcv-lite is: a package that imports, without mmcv._ext
    (tmp_path / 'torch.py').touch()
    (tmp_path / 'mmengine.py').touch()
    (tmp_path / 'mmcv' / 'ops').mkdir(parents=True)
    (tmp_path / 'mmcv' / '__init__.py').touch()
    ops = tmp_path / 'mmcv' / 'ops' / '__init__.py'
    ops.write_text('import mmcv._ext\n')
    python = write_command(
        tmp_path / 'python',
        f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" -S "$@"',
    )
    message = error('use_given_env "$ENV"', ENV=python)
    assert "mmcv.ops: does not import: No module named 'mmcv._ext'" in message


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
