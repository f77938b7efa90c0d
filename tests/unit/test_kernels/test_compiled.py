# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Machine code of the Triton kernels, for GPUs that need not be there.

By the Triton of this environment and by an old one, in the folder that the
environment variable SN_MM_OLD_TRITON names (tools/test.sh makes it).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name('compile_kernels.py')
OLD = os.environ.get('SN_MM_OLD_TRITON', '')
CAPABILITIES = [80, 90]
SWEEPS = {
    'moments_kernel',
    'affine_kernel',
    'products_kernel',
    'combine_kernel',
    'remeasure_kernel',
}


@pytest.fixture(scope='module', params=['this Triton', 'old Triton'])
def compiled(request, tmp_path_factory):
    """What the script says, by compute capability."""
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    # Triton takes what it compiled before from there
    env['TRITON_CACHE_DIR'] = str(tmp_path_factory.mktemp('triton'))
    env.pop('PYTHONPATH', None)
    if request.param == 'this Triton':
        pytest.importorskip('triton')
    elif OLD and Path(OLD, 'triton').is_dir():
        env['PYTHONPATH'] = OLD
    else:
        pytest.skip('needs SN_MM_OLD_TRITON, a folder with Triton 2')
    running = {
        capability: subprocess.Popen(
            [sys.executable, str(SCRIPT), str(capability)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for capability in CAPABILITIES
    }
    found = {}
    for capability, process in running.items():
        out, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
        found[capability] = json.loads(out)
    return found


@pytest.mark.parametrize('capability', CAPABILITIES)
def test_kernels_fit_into_registers(compiled, capability):
    for kernel in compiled[capability]:
        assert kernel['spilled'] == 0, kernel
        assert kernel['registers'] <= 255, kernel


@pytest.mark.parametrize('capability', CAPABILITIES)
def test_sweeps_neither_wait_nor_take_float64_for_values(compiled, capability):
    kernels = [k for k in compiled[capability] if k['kernel'] in SWEEPS]
    assert {k['kernel'] for k in kernels} == SWEEPS
    for kernel in kernels:
        assert kernel['float64'] == 0, kernel
        assert kernel['waits_in_loops'] == 0, kernel


@pytest.mark.parametrize('capability', CAPABILITIES)
def test_numbers_of_rows_are_float64(compiled, capability):
    """And the counts of float64 and of instructions see something."""
    others = [k for k in compiled[capability] if k['kernel'] not in SWEEPS]
    assert {k['module'] for k in others} == {'kernels', 'switch_kernels'}
    assert all(k['float64'] > 0 for k in others)
    assert all(k['instructions'] > 50 for k in compiled[capability])
