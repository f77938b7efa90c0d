# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""Sweeps know rows, and no normalizer: they run without the rest."""

import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

KERNELS = ROOT / 'sn_mm' / 'kernels'
SWEEPS = sorted(
    path
    for path in KERNELS.rglob('*')
    if path.suffix in ('.py', '.c', '.h') and 'fused' not in path.parts
)
# names of normalizers, of their shares, and of statistics
WORDS = re.compile(
    r'switch|ssn|sparsest|softmax|\bratios?\b|batch_?norm\b(?!_)|bessel|unbiased|'
    r"running_(mean|var)|\bibn\b|renorm|kalman|['\"](in|ln|bn|gn)['\"]",
    re.IGNORECASE,
)
# PyTorch's kernels by their own names, and the room of the fused numbers
ALLOWED = re.compile(
    r'torch\.batch_norm\w*|native_(batch|group)_norm\w*|'
    r'(is|are) batch norm|of batch norm|batch norm|switch(\.c|_\w+)|'
    r'\bswitch \(|fused\.\w+|fused/\w+',
)
STUB = """
import importlib, sys, types
parent = types.ModuleType('sn_mm')
parent.__path__ = [{package!r}]
sys.modules['sn_mm'] = parent
for blocked in ('functional', 'layers', 'distributed', 'anatomy', 'utils'):
    sys.modules['sn_mm.' + blocked] = None  # an import of it fails
import torch
from sn_mm.kernels import choose
for name in {names!r}:
    sweeps = choose(torch.rand(2, 3, 4, 5), name)
    x = torch.rand(2, 3, 4, 5)
    moments = sweeps.moments(x)
    near = moments[0].float()
    one = torch.ones_like(near)
    y = sweeps.affine(x, near, one, near)
    assert torch.allclose(y, x), name
    sums = sweeps.products(torch.ones_like(x), x, near)
    assert torch.allclose(sums[0], torch.full((2, 3), 20.0).double()), name
    dx = sweeps.combine(x, x, one, near, 0 * one, 0 * one)
    assert torch.allclose(dx, x), name
    again, _ = sweeps.remeasure(x, x)
    assert torch.allclose(again, moments), name
print('ran', len({names!r}))
"""


def test_sweeps_run_beside_a_stub():
    names = ['aten', 'native']
    code = STUB.format(package=str(ROOT / 'sn_mm'), names=names)
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'ran 2'


@pytest.mark.parametrize('path', SWEEPS, ids=lambda p: p.name)
def test_no_normalizer_is_named(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        rest = ALLOWED.sub('', line)
        assert not WORDS.search(rest), f'{path.name}:{number}: {line}'


def test_there_are_sweeps_to_look_at():
    assert {'aten.py', 'sweeps.py', 'sweeps.c', 'kernels.py'} <= {
        p.name for p in SWEEPS
    }
