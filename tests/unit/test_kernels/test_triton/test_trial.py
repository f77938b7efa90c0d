# Copyright (c) sn_mm authors. Licensed under Apache-2.0.
"""The first-use check finds a sweep that is wrong, whichever it is."""

from __future__ import annotations

import pytest
import torch

from sn_mm.kernels import aten
from sn_mm.kernels.triton import trial

CPU = torch.device('cpu')
SMALL = (2, 3, 5, 4)


class Sweeps:
    """PyTorch's, one of which is off by a part of its largest value."""

    def __init__(self, wrong=None, share=1e-2):
        self.wrong, self.share = wrong, share

    def __getattr__(self, name):
        function = getattr(aten, name)
        if name != self.wrong:
            return function

        def off(*args, **options):
            found = function(*args, **options)
            if isinstance(found, tuple):
                return tuple(self.moved(t) for t in found)
            return self.moved(found)

        return off

    def moved(self, t):
        return t + self.share * t.abs().max()


def difference(monkeypatch, sweeps, dtype=torch.float32):
    monkeypatch.setattr(trial, 'sweeps', sweeps)
    return trial.difference(CPU, dtype, SMALL)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_sweeps_that_agree(monkeypatch, dtype):
    assert difference(monkeypatch, Sweeps(), dtype) is None


@pytest.mark.parametrize(
    'name, what',
    [
        ('moments', 'moments differ'),
        ('affine', 'outputs differ'),
        ('products', 'sums differ'),
        ('combine', 'gradients differ'),
        ('remeasure', 'moments for backward differ'),
    ],
)
def test_the_one_that_is_wrong_is_named(monkeypatch, name, what):
    found = difference(monkeypatch, Sweeps(name))
    assert found.startswith(what) and 'PyTorch' in found


def test_rounding_is_allowed_in_the_dtype():
    """Four units of bfloat16 pass there, and in float32 they do not."""
    with pytest.MonkeyPatch.context() as patch:
        share = 3 * torch.finfo(torch.bfloat16).eps
        sweeps = Sweeps('affine', share)
        assert difference(patch, sweeps, torch.bfloat16) is None
        assert difference(patch, sweeps) is not None


def test_its_numbers_are_no_random_ones():
    state = torch.get_rng_state()
    x = trial._waves(SMALL, 0.37, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, trial._waves(SMALL, 0.37, CPU))
    assert x.std() > 0.5 and x.dtype is torch.float32
