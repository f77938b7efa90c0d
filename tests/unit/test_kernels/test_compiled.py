# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Machine code of the Triton kernels, for GPUs that need not be there.

By the Triton of this environment and by an old one, in the folder that the
environment variable SN_MM_OLD_TRITON names (tools/test.sh makes it).
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name('compile_kernels.py')
OLD = os.environ.get('SN_MM_OLD_TRITON', '')
# an old Triton knows sm_90 in part, and compiles the same kernels for sm_80
BUILDS = {
    'this Triton, sm_80': 80,
    'this Triton, sm_90': 90,
    'old Triton, sm_80': 80,
}
SLOW = ('this Triton, sm_80',)  # half a minute for what the others have
SWEEPS = {
    'moments_kernel',
    'affine_kernel',
    'products_kernel',
    'combine_kernel',
    'remeasure_kernel',
}


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(b, marks=[pytest.mark.slow] if b in SLOW else [])
        for b in BUILDS
    ],
)
def compiled(request, tmp_path_factory):
    """What the script says of each kernel."""
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    # Triton takes what it compiled before from there
    env['TRITON_CACHE_DIR'] = str(tmp_path_factory.mktemp('triton'))
    env.pop('PYTHONPATH', None)
    if request.param.startswith('old'):
        if not (OLD and Path(OLD, 'triton').is_dir()):
            pytest.skip('needs SN_MM_OLD_TRITON, a folder with an old Triton')
        env['PYTHONPATH'] = OLD
    elif importlib.util.find_spec('triton') is None:
        pytest.skip('needs Triton')
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(BUILDS[request.param])],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_kernels_fit_into_registers(compiled):
    for kernel in compiled:
        assert kernel['spilled'] == 0, kernel
        assert kernel['registers'] <= 255, kernel


def test_sweeps_neither_wait_nor_take_float64_for_values(compiled):
    kernels = [k for k in compiled if k['kernel'] in SWEEPS]
    assert {k['kernel'] for k in kernels} == SWEEPS
    for kernel in kernels:
        assert kernel['float64'] == 0, kernel
        assert kernel['waits_in_loops'] == 0, kernel


def test_numbers_of_rows_are_float64(compiled):
    """And the counts of float64 and of instructions see something."""
    others = [k for k in compiled if k['kernel'] not in SWEEPS]
    assert {k['module'] for k in others} == {'kernels', 'switch_kernels'}
    assert all(k['float64'] > 0 for k in others)
    assert all(k['instructions'] > 50 for k in compiled)
