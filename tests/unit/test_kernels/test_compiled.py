# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Machine code of the Triton kernels, for GPUs that need not be there.

In the Triton of this environment and, where the environment variable
SN_MM_OLD_TRITON names a Python with Triton 2 (tools/old_triton.sh makes one),
in that one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name('compile_kernels.py')
OLD = os.environ.get('SN_MM_OLD_TRITON')
PYTHONS = [sys.executable, *([OLD] if OLD else [])]
CASES = [('sweeps', 90), ('sweeps', 80), ('switch', 90), ('switch', 80)]


@pytest.fixture(scope='module', params=PYTHONS)
def compiled(request, tmp_path_factory):
    """What the script says, by case; all cases are compiled at once."""
    if request.param == sys.executable:
        pytest.importorskip('triton')
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    # Triton takes what it compiled before from there
    env['TRITON_CACHE_DIR'] = str(tmp_path_factory.mktemp('triton'))
    env.pop('PYTHONPATH', None)
    running = {
        case: subprocess.Popen(
            [request.param, str(SCRIPT), *map(str, case)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for case in CASES
    }
    found = {}
    for case, process in running.items():
        out, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
        found[case] = json.loads(out)
    return found


@pytest.mark.parametrize('case', CASES, ids=str)
def test_kernels_fit_into_registers(compiled, case):
    for kernel in compiled[case]:
        assert kernel['spilled'] == 0, kernel
        assert kernel['registers'] <= 255, kernel


@pytest.mark.parametrize('case', CASES[:2], ids=str)
def test_sweeps_neither_wait_nor_take_float64_for_every_value(compiled, case):
    sweeps = [k for k in compiled[case] if 'merge' not in k['kernel']]
    assert {k['kernel'] for k in sweeps} == {
        'moments_kernel',
        'affine_kernel',
        'products_kernel',
        'combine_kernel',
        'remeasure_kernel',
    }
    for kernel in sweeps:
        assert kernel['float64'] == 0, kernel
        assert kernel['waits_in_loops'] == 0, kernel


@pytest.mark.parametrize('case', CASES, ids=str)
def test_numbers_of_rows_are_float64(compiled, case):
    """And the count of float64 sees them."""
    kernels = [
        k
        for k in compiled[case]
        if case[0] == 'switch' or 'merge' in k['kernel']
    ]
    assert kernels
    assert all(k['float64'] > 0 for k in kernels)
